#!/usr/bin/env python3
"""Writes conf/prices.yaml from a JSON file of price facts, or compares the two.

    scripts/prices.py FACTS.json            write conf/prices.yaml
    scripts/prices.py --check FACTS.json    compare every fact with conf/prices.yaml, in exact decimals

FACTS.json is a subset of LiteLLM's model_prices_and_context_window.json, one object per model, US dollars per
token. Conversion is exact (decimal, never binary floating point). A cost key this script does not know is an
error, so that no new fact is lost silently. Prices of calls and snapshots that FACTS.json does not have stand in tables
here (CALLS, SNAPSHOTS, OTHERWISE), each with its source.
"""

import json
import re
import sys
from decimal import Decimal
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "conf" / "prices.yaml"

PROVIDERS = {"text-completion-openai": "openai", "cohere_chat": "cohere"}

# The source's key -> our name, in the order of the written file.
RATES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "cache_creation_input_token_cost_above_12hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "cache_read_input_audio_token_cost": "audio_cached",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "cache_read_input_image_token_cost": "image_cached",
    "output_cost_per_image_token": "image_output",
}
ORDER = list(dict.fromkeys(RATES.values()))
TIERS = {"_batches": "batch", "_flex": "flex", "_priority": "priority"}
# The same fact under a second name: must agree with the first.
SYNONYMS = {"input_cost_per_token_cache_hit": "cache_read_input_token_cost"}
LEFT_OUT = re.compile(r"_(ultrafast|decisions)$|_per_(second|character|query)$")
LIMITS = ("max_input_tokens", "max_output_tokens")
# Tokens per second that no model of a provider generates more of, for what may have been generated unseen. Source: the
# fastest models of these providers in public measurements of November 2026 (OpenAI's and Anthropic's fast modes stay
# below 600), rounded up generously. Others have the default of src/pricing/price.rs.
BEHAVIOUR = ("max_tokens_per_second", "thinks")
MAX_TOKENS_PER_SECOND = {"openai": 1000, "anthropic": 1000}

# What a call of a tool costs that the provider runs, US dollars: the facts' names -> our names.
SEARCH = "search_context_cost_per_query"  # by the size of the context that a search brings along
MAPS = "google_maps_grounding_cost_per_query"

# The same for all models of a provider, where an entry does not say otherwise. The facts do not have these. They are what
# the vendors' price pages said as far as this project knows (platform.openai.com/docs/pricing, "Built-in tools";
# platform.claude.com/docs/en/about-claude/pricing, "Feature-specific pricing"), written down in November 2026 without
# access to them: compare before you rely on them.
CALLS = {
    "openai": {
        # The dearest: the preview tool with a model that does not reason, $25 for 1000 searches.
        "web_search": "0.025",
        "file_search": "0.0025",  # $2.50 for 1000 calls
        # For each container, by its memory: 1 GB, 4 GB, 16 GB, 64 GB.
        "code_interpreter": "0.03",
        "code_interpreter_4g": "0.12",
        "code_interpreter_16g": "0.48",
        "code_interpreter_64g": "1.92",
        "mcp": "0",  # "no additional cost"; its results are tokens of the prompt
    },
    "anthropic": {
        "web_search": "0.01",  # $10 for 1000 searches
        "web_fetch": "0",  # "no additional cost"; what is fetched is tokens of the prompt
        "code_execution": "0.05",  # an hour of a container, which one request does not exceed
        "mcp": "0",
    },
}

# Dated names that cost what their family costs, and one that does not: all that the complete file of the facts' source
# (litellm 1.109.1, model_prices_and_context_window_backup.json) has for the models here.
SNAPSHOTS = {
    "openai": [
        "gpt-4.1-2025-04-14", "gpt-4.1-mini-2025-04-14", "gpt-4.1-nano-2025-04-14",
        "gpt-4o-2024-11-20", "gpt-4o-mini-2024-07-18", "gpt-4o-mini-tts-2025-03-20", "gpt-4o-mini-tts-2025-12-15",
        "gpt-4o-search-preview-2025-03-11", "gpt-audio-2025-08-28", "gpt-4-turbo-2024-04-09",
        "gpt-5-2025-08-07", "gpt-5-mini-2025-08-07", "gpt-5-nano-2025-08-07", "gpt-5.1-2025-11-13",
        "gpt-5.2-2025-12-11", "gpt-5.4-2026-03-05", "gpt-5.4-mini-2026-03-17", "gpt-5.4-nano-2026-03-17",
        "gpt-5.5-2026-04-23", "gpt-5.5-pro-2026-04-23",
        "o1-2024-12-17", "o3-2025-04-16", "o3-mini-2025-01-31", "o4-mini-2025-04-16",
    ],
    "anthropic": [
        "claude-opus-4-5-20251101", "claude-opus-4-6-20260205", "claude-opus-4-7-20260416", "claude-sonnet-4-5-20250929",
    ],
    "xai": ["grok-4.3-latest", "grok-4.5-latest"],
}
OTHERWISE = {
    "gpt-4o-2024-05-13": {
        "litellm_provider": "openai", "mode": "chat",
        "max_input_tokens": Decimal(128000), "max_output_tokens": Decimal(4096),
        "input_cost_per_token": Decimal("5e-06"), "output_cost_per_token": Decimal("1.5e-05"),
        "input_cost_per_token_batches": Decimal("2.5e-06"), "output_cost_per_token_batches": Decimal("7.5e-06"),
        "input_cost_per_token_priority": Decimal("8.75e-06"), "output_cost_per_token_priority": Decimal("2.625e-05"),
    },
}

HEAD = """\
# What models cost: US dollars per MILLION tokens, one entry per provider/model.
# Written by scripts/prices.py; regenerate it rather than editing by hand.
#
# Facts from {source}
# ({licence}).
#
# How an entry is read
#   input, output            prompt and generated tokens
#   cached                   prompt tokens read from the provider's prompt cache
#   cache_write(_1h)         prompt tokens written to it, for its default life (or for the long life: an hour and more)
#   reasoning                generated tokens that were thinking
#   audio_*, image_*         audio and image tokens; *_cached: those that the cache surely held
#   tiers                    other rates by service tier; a rate that is missing there is the standard one
#   above                    rates of the whole request once its prompt has MORE than prompt_tokens tokens
#   max_*_tokens             the model's own limits
#   max_tokens_per_second    generates no more than that; bounds what may have been generated unseen
#   thinks                   false: all that it generates is seen (a model without it may think unseen)
#   calls                    US dollars for one call of a tool that the provider runs; see below
# A part without a rate of its own costs what the whole costs: cached as input, reasoning as output.
# Numbers are read as exact decimals; six places (a trillionth of a dollar per token) are the finest.
#
# aliases: another name for an entry, for example   openrouter/openai/gpt-4o: openai/gpt-4o
# No name is guessed: a dated name (-2024-11-20, -20251001) or -latest has a price where it has an entry or an alias.
#
# calls: provider -> tool -> US dollars for each call, for all of its models that do not say otherwise. What is counted
# is a search, a file search, a container (code_interpreter, by its memory), a request that runs code (code_execution).
# A tool without a price here is refused where a tenant's money is bounded.
#
# Left out of this file: rates per second and character; the "ultrafast" and "decisions" tiers; models that are not
# charged by token at all, which therefore count as unpriced:
{skipped}
"""


def load(path):
    """The facts, every number as a Decimal, and the description of their source."""
    facts = json.loads(Path(path).read_text("utf-8"), parse_float=Decimal, parse_int=Decimal)
    meta = facts.pop("_meta", {})
    return meta, with_otherwise(facts)


def with_otherwise(facts):
    """The facts with the snapshots that cost something else than their family, each behind it."""
    out = {}
    for key, model in facts.items():
        out[key] = model
        out.update({name: facts.get(name, other) for name, other in OTHERWISE.items() if name[: -len("-2024-05-13")] == key})
    return out


def name_of(key, model):
    provider = PROVIDERS.get(model["litellm_provider"], model["litellm_provider"])
    return key if key.startswith(provider + "/") else f"{provider}/{key}"


def place_of(key):
    """(threshold, tier, our rate name) of a cost key; None for a fact we leave out or that is no cost."""
    if "cost" not in key or LEFT_OUT.search(key):
        return None
    tier = "standard"
    for suffix, word in TIERS.items():
        if key.endswith(suffix):
            key, tier = key.removesuffix(suffix), word
    threshold = 0
    if found := re.search(r"_above_(\d+)k_tokens$", key):
        key, threshold = key[: found.start()], int(found[1]) * 1000
    if key not in RATES:
        raise SystemExit(f"unknown cost key {key!r}: teach it to scripts/prices.py")
    return threshold, tier, RATES[key]


def rates_of(key, model):
    """{(threshold, tier, rate name): US dollars per token} of one model."""
    rates = {}
    for second, first in SYNONYMS.items():
        if second in model and model.setdefault(first, model[second]) != model[second]:
            raise SystemExit(f"{key}: {second} contradicts {first}")
    for cost_key, value in model.items():
        if cost_key in SYNONYMS or (place := place_of(cost_key)) is None:
            continue
        if rates.setdefault(place, value) != value:
            raise SystemExit(f"{key}: two different values for {place}")
    if model.get("mode") == "embedding":
        rates.setdefault((0, "standard", "output"), Decimal(0))  # an embedding has no output tokens
    return rates


def behaviour_of(name, model):
    """What a model may generate unseen, and how fast, as it stands in the file."""
    facts = {}
    if fastest := MAX_TOKENS_PER_SECOND.get(name.split("/")[0]):
        facts["max_tokens_per_second"] = str(fastest)
    if not model.get("supports_reasoning"):
        facts["thinks"] = "false"
    return facts


def charged_by_token(rates):
    return (0, "standard", "input") in rates


def calls_of(model):
    """{tool: US dollars per call} of one model. Of the sizes of a search the dearest counts where a request names none."""
    calls = {}
    if sizes := model.get(SEARCH):
        calls["web_search"] = max(sizes.values())
        if len(set(sizes.values())) > 1:
            calls |= {f"web_search_{size.rsplit('_', 1)[1]}": value for size, value in sizes.items()}
    if MAPS in model:
        calls["google_maps"] = model[MAPS]
    return calls


def flow(calls):
    return f"{{{', '.join(f'{tool}: {Decimal(value).normalize():f}' for tool, value in calls.items())}}}"


def aliases_of(facts):
    """{dated name: its family} of the snapshots whose family is here."""
    names = {name_of(key, model) for key, model in facts.items() if charged_by_token(rates_of(key, model))}
    pairs = {f"{provider}/{name}": f"{provider}/{re.sub(r'-(latest|20[0-9-]+)$', '', name)}"
             for provider, snapshots in SNAPSHOTS.items() for name in snapshots}
    return {name: family for name, family in pairs.items() if family in names and name not in names}


def per_million(value):
    """Plain decimal text of value * 10^6 with at least two places: 2.50, 0.075."""
    text = format((value * 1_000_000).normalize(), "f")
    whole, _, places = text.partition(".")
    if len(places) > 6:
        raise SystemExit(f"{value} is finer than a trillionth of a dollar")
    return f"{whole}.{places.ljust(2, '0')}"


def entry_lines(rates, threshold, indent):
    """The lines of one rate set: standard rates, then tiers in flow style."""
    pad = " " * indent
    lines = [f"{pad}{rate}: {per_million(rates[threshold, 'standard', rate])}"
             for rate in ORDER if (threshold, "standard", rate) in rates]
    tiers = []
    for tier in TIERS.values():
        pairs = [f"{rate}: {per_million(rates[threshold, tier, rate])}"
                 for rate in ORDER if (threshold, tier, rate) in rates]
        if pairs:
            tiers.append(f"{pad}  {tier}: {{{', '.join(pairs)}}}")
    return lines + ([f"{pad}tiers:", *tiers] if tiers else [])


def render(meta, facts):
    models, skipped = {}, []
    for key, model in facts.items():
        rates = rates_of(key, model)
        name = name_of(key, model)
        if not charged_by_token(rates):
            skipped.append(name)
            continue
        lines = [f"    {limit}: {int(model[limit])}" for limit in LIMITS if limit in model]
        lines += [f"    {key}: {value}" for key, value in behaviour_of(name, model).items()]
        lines += entry_lines(rates, 0, 4)
        if calls := calls_of(model):
            lines.append(f"    calls: {flow(calls)}")
        thresholds = sorted({place[0] for place in rates} - {0})
        if thresholds:
            lines.append("    above:")
        for threshold in thresholds:
            lines.append(f"      - prompt_tokens: {threshold}")
            lines += entry_lines(rates, threshold, 8)
        models.setdefault(name.split("/")[0], []).append([f"  {name}:", *lines])
    out = [HEAD.format(source=meta.get("source", "an unnamed file"), licence=meta.get("licence", "licence not stated"),
                       skipped="\n".join(f"#   {name}" for name in skipped)), "models:"]
    for provider, entries in models.items():
        out.append(f"\n  # --- {provider} ---")
        out += ["\n".join(entry) for entry in entries]
    out.append("\ncalls:")
    out += [f"  {provider}: {flow(calls)}" for provider, calls in CALLS.items()]
    out.append("\naliases:")
    out += [f"  {name}: {family}" for name, family in aliases_of(facts).items()]
    return "\n".join(out) + "\n"


def read_back(text):
    """Every rate, limit and price of a call of a written file, and its aliases, by a reader that knows only the shape this
    script writes."""
    rates, limits, calls = {}, {}, {}
    name = tier = None
    threshold = 0
    models, rest = text.split("\nmodels:\n", 1)[1].split("\ncalls:\n", 1)
    general, aliases = rest.split("\naliases:\n", 1)
    read_flow = lambda flow: {tool: Decimal(value) for tool, value in (pair.split(": ") for pair in flow.strip("{}").split(", "))}
    for line in general.strip().splitlines():
        provider, flow = line.strip().split(": ", 1)
        calls[provider] = read_flow(flow)
    aliases = dict(line.strip().split(": ") for line in aliases.strip().splitlines())
    for line in models.splitlines():
        body = line.split(" #")[0].rstrip()
        indent = len(body) - len(body.lstrip())
        body = body.strip()
        if not body or body.startswith("#"):
            continue
        if indent == 2:
            name, threshold = body.removesuffix(":"), 0
            rates[name], limits[name] = {}, {}
        elif body.startswith("- prompt_tokens: "):
            threshold = int(body.split(": ")[1])
        elif body in ("tiers:", "above:"):
            continue
        elif body.startswith("calls: "):
            calls[name] = read_flow(body.removeprefix("calls: "))
        elif "{" in body:
            tier, _, pairs = body.partition(": ")
            for pair in pairs.strip("{}").split(", "):
                rate, value = pair.split(": ")
                rates[name][threshold, tier, rate] = Decimal(value) / 1_000_000
        else:
            key, value = body.split(": ")
            if key in LIMITS:
                limits[name][key] = Decimal(value)
            elif key in BEHAVIOUR:
                limits[name][key] = value
            else:
                rates[name][threshold, "standard", key] = Decimal(value) / 1_000_000
    return rates, limits, calls, aliases


def check(facts):
    rates, limits, calls, aliases = read_back(TARGET.read_text("utf-8"))
    wrong, compared = [], 0
    general = {provider: {tool: Decimal(value) for tool, value in tools.items()} for provider, tools in CALLS.items()}
    for what, want, have in [("aliases", aliases_of(facts), aliases),
                             *((f"calls of {name}", tools, calls.pop(name, {})) for name, tools in general.items())]:
        compared += len(want)
        wrong += [] if want == have else [f"{what}: facts {want}, file {have}"]
    for key, model in facts.items():
        name, wanted = name_of(key, model), rates_of(key, model)
        if not charged_by_token(wanted):
            if name in rates:
                wrong.append(f"{name}: is not charged by token but has an entry")
            continue
        wanted_limits = {limit: model[limit] for limit in LIMITS if limit in model} | behaviour_of(name, model)
        found, found_limits = rates.pop(name, {}), limits.pop(name, {})
        for want, have in ((wanted, found), (wanted_limits, found_limits), (calls_of(model), calls.pop(name, {}))):
            for place in want.keys() | have.keys():
                compared += 1
                if want.get(place) != have.get(place):
                    wrong.append(f"{name} {place}: facts {want.get(place)}, file {have.get(place)}")
    wrong += [f"{name}: not in the facts" for name in [*rates, *calls]]
    print("\n".join(wrong) or f"{compared} facts agree")
    return 1 if wrong else 0


def main(args):
    if len(args) == 2 and args[0] == "--check":
        return check(load(args[1])[1])
    if len(args) == 1 and not args[0].startswith("-"):
        TARGET.write_text(render(*load(args[0])), "utf-8")
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
