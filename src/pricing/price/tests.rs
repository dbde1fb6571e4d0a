//! Costs computed by hand, and properties that hold for any usage.

use proptest::prelude::*;

use super::super::Catalogue;
use super::*;

/// US dollars per million tokens: input 2, output 10, cached 0.2, write 2.5, long write 4, reasoning 20, audio in 30,
/// cached audio 3, audio out 60, image in 5; twice that above 1000 prompt tokens; flex at half of input and output.
fn rich() -> Price {
    let text = "
models:
  p/rich:
    max_input_tokens: 5000
    max_output_tokens: 700
    input: 2
    output: 10
    cached: 0.2
    cache_write: 2.5
    cache_write_1h: 4
    reasoning: 20
    audio_input: 30
    audio_cached: 3
    audio_output: 60
    image_input: 5
    tiers: {flex: {input: 1, output: 5}}
    above:
      - {prompt_tokens: 3000, input: 40, output: 50}
      - {prompt_tokens: 1000, input: 4, output: 20, cached: 0.4, tiers: {flex: {input: 3}}}
";
    let catalogue = Catalogue::parse(text).unwrap();
    catalogue.price("p", "rich").unwrap().as_ref().clone()
}

fn nano(usage: Usage) -> u64 {
    rich().cost(&usage, ServiceTier::Standard).0
}

#[test]
fn prompt_and_completion_have_their_rates() {
    // 100 * 2000 + 10 * 10000 nano-dollars
    assert_eq!(nano(Usage { prompt_tokens: 100, completion_tokens: 10, ..Usage::default() }), 300_000);
}

#[test]
fn cached_tokens_are_part_of_the_prompt() {
    // 40 fresh * 2000 + 60 cached * 200
    assert_eq!(nano(Usage { prompt_tokens: 100, cached_tokens: 60, ..Usage::default() }), 92_000);
}

#[test]
fn reasoning_is_part_of_the_completion() {
    // 3 spoken * 10000 + 7 thought * 20000
    assert_eq!(nano(Usage { completion_tokens: 10, reasoning_tokens: 7, ..Usage::default() }), 170_000);
}

#[test]
fn cache_writes_have_two_lives() {
    // 50 fresh * 2000 + 10 cached * 200 + 30 written * 2500 + 10 long * 4000
    let usage = Usage {
        prompt_tokens: 100,
        cached_tokens: 10,
        cache_write_tokens: 30,
        cache_write_1h_tokens: 10,
        ..Usage::default()
    };
    assert_eq!(nano(usage), 217_000);
}

#[test]
fn audio_and_images_leave_the_input_rate() {
    // 60 text * 2000 + 30 audio * 30000 + 10 image * 5000; 4 text * 10000 + 6 audio * 60000
    let usage = Usage {
        prompt_tokens: 100,
        audio_prompt_tokens: 30,
        image_prompt_tokens: 10,
        completion_tokens: 10,
        audio_completion_tokens: 6,
        ..Usage::default()
    };
    assert_eq!(nano(usage), 1_070_000 + 400_000);
}

#[test]
fn only_audio_that_must_have_been_cached_is_cached_audio() {
    // 100 tokens, 80 audio, 50 cached: at least 30 are both. 50 fresh audio * 30000 + 30 * 3000 + 20 cached * 200
    let usage = Usage { prompt_tokens: 100, audio_prompt_tokens: 80, cached_tokens: 50, ..Usage::default() };
    assert_eq!(nano(usage), 1_594_000);
}

#[test]
fn a_prompt_above_a_threshold_changes_the_whole_rate_set() {
    let at = |prompt_tokens| Usage { prompt_tokens, completion_tokens: 10, cached_tokens: 100, ..Usage::default() };
    assert_eq!(nano(at(1000)), 900 * 2_000 + 100 * 200 + 10 * 10_000);
    assert_eq!(nano(at(1001)), 901 * 4_000 + 100 * 400 + 10 * 20_000);
    assert_eq!(nano(at(3001)), 2901 * 40_000 + 100 * 40_000 + 10 * 50_000, "no cached rate there: as input");
}

#[test]
fn a_tier_falls_back_to_the_standard_rate() {
    let usage = Usage { prompt_tokens: 100, completion_tokens: 10, cached_tokens: 50, ..Usage::default() };
    assert_eq!(rich().cost(&usage, ServiceTier::Flex).0, 50 * 1_000 + 50 * 200 + 10 * 5_000);
    assert_eq!(rich().cost(&usage, ServiceTier::Priority), rich().cost(&usage, ServiceTier::Standard));
    let long = Usage { prompt_tokens: 2000, completion_tokens: 10, ..Usage::default() };
    assert_eq!(rich().cost(&long, ServiceTier::Flex).0, 2000 * 3_000 + 10 * 20_000);
}

#[test]
fn details_larger_than_their_totals_are_cut() {
    let usage = Usage {
        prompt_tokens: 10,
        cached_tokens: 99,
        cache_write_tokens: 4,
        completion_tokens: 5,
        reasoning_tokens: 99,
        ..Usage::default()
    };
    assert_eq!(nano(usage), 4 * 2_500 + 6 * 200 + 5 * 20_000);
}

#[test]
fn rounds_once_and_halves_up() {
    // Rates of 0.25 nano-dollars: two halves of a request make half a nano-dollar, not zero twice.
    let price = Price::flat(PicoUsd(250), PicoUsd(250));
    let cost = |prompt_tokens, completion_tokens| {
        price.cost(&Usage { prompt_tokens, completion_tokens, ..Usage::default() }, ServiceTier::Standard).0
    };
    assert_eq!([cost(1, 0), cost(1, 1), cost(3, 2), cost(3, 3)], [0, 1, 1, 2]);
}

#[test]
fn the_largest_counts_saturate() {
    let most = u64::MAX;
    let usage = Usage {
        prompt_tokens: most,
        completion_tokens: most,
        cached_tokens: most,
        cache_write_tokens: most,
        cache_write_1h_tokens: most,
        reasoning_tokens: most,
        audio_prompt_tokens: most,
        audio_completion_tokens: most,
        image_prompt_tokens: most,
    };
    assert_eq!(rich().cost(&usage, ServiceTier::Standard), NanoUsd::MAX);
    let dearest = Price::flat(PicoUsd(most), PicoUsd(most));
    assert_eq!(dearest.cost(&usage, ServiceTier::Batch), NanoUsd::MAX);
    assert_eq!(dearest.worst_case(most, most, ServiceTier::Batch), NanoUsd::MAX);
}

#[test]
fn the_worst_case_takes_the_dearest_rates() {
    let price = rich();
    assert_eq!(price.worst_case(100, 10, ServiceTier::Standard).0, 100 * 30_000 + 10 * 60_000);
    // Above a threshold the step below it still counts: the prompt may turn out shorter.
    assert_eq!(price.worst_case(2000, 10, ServiceTier::Standard).0, 2000 * 30_000 + 10 * 60_000);
    assert_eq!(price.worst_case(4000, 10, ServiceTier::Standard).0, 4000 * 40_000 + 10 * 60_000);
    let plain = Price::flat(PicoUsd(2_000_000), PicoUsd(10_000_000));
    assert_eq!(plain.worst_case(100, 10, ServiceTier::Flex).0, 100 * 2_000 + 10 * 10_000);
    assert_eq!((price.max_input_tokens(), price.max_output_tokens()), (Some(5000), Some(700)));
    assert_eq!((plain.max_input_tokens(), plain.max_output_tokens()), (None, None));
}

fn any_tier() -> impl Strategy<Value = ServiceTier> {
    let tiers = [ServiceTier::Standard, ServiceTier::Flex, ServiceTier::Priority, ServiceTier::Batch];
    proptest::sample::select(tiers.to_vec())
}

/// Counts around the thresholds, consistent or not, and sometimes enormous ones.
fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0_u64..5_000, 1 => any::<u64>()]
}

prop_compose! {
    fn any_usage()(counts in proptest::array::uniform9(any_count())) -> Usage {
        let [prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, cache_write_1h_tokens,
             reasoning_tokens, audio_prompt_tokens, audio_completion_tokens, image_prompt_tokens] = counts;
        Usage {
            prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, cache_write_1h_tokens,
            reasoning_tokens, audio_prompt_tokens, audio_completion_tokens, image_prompt_tokens,
        }
    }
}

proptest! {
    #[test]
    fn no_usage_costs_more_than_the_worst_case(usage in any_usage(), tier in any_tier(), more in 0_u64..3_000) {
        let price = rich();
        let worst = price.worst_case(
            usage.prompt_tokens.saturating_add(more), usage.completion_tokens.saturating_add(more), tier);
        prop_assert!(price.cost(&usage, tier) <= worst);
        prop_assert!(price.cost(&usage, ServiceTier::Standard) <= worst);
    }

    #[test]
    fn more_tokens_never_cost_less(usage in any_usage(), more in 0_u64..100, tier in any_tier()) {
        // Without thresholds, because above one a part may lose its own rate.
        let flat = Price { above: Vec::new(), ..rich() };
        let before = flat.cost(&usage, tier);
        let longer = Usage { prompt_tokens: usage.prompt_tokens.saturating_add(more), ..usage };
        let wordier = Usage { completion_tokens: usage.completion_tokens.saturating_add(more), ..usage };
        prop_assert!(flat.cost(&longer, tier) >= before);
        prop_assert!(flat.cost(&wordier, tier) >= before);
    }

    #[test]
    fn dear_parts_raise_and_cheap_parts_lower_the_cost(usage in any_usage(), more in 0_u64..100) {
        let flat = Price { above: Vec::new(), ..rich() };
        let cost = |usage: &Usage| flat.cost(usage, ServiceTier::Standard);
        let plain = Usage { audio_prompt_tokens: 0, image_prompt_tokens: 0, audio_completion_tokens: 0, ..usage };
        let thought = Usage { reasoning_tokens: usage.reasoning_tokens.saturating_add(more), ..plain };
        let written = Usage { cache_write_1h_tokens: usage.cache_write_1h_tokens.saturating_add(more), ..plain };
        let cached = Usage { cached_tokens: usage.cached_tokens.saturating_add(more), ..plain };
        prop_assert!(cost(&thought) >= cost(&plain));
        prop_assert!(cost(&written) >= cost(&plain));
        prop_assert!(cost(&cached) <= cost(&plain));
    }
}
