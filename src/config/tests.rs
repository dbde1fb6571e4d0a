//! Tests of the loader as a whole: defaults, the environment, and everything that can be wrong with a file.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::*;

fn source(env: &[(&str, &str)]) -> Source {
    let env: HashMap<String, String> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Source { file: None, env: Arc::new(move |name| env.get(name).cloned()), simulate: false }
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
    Config::load_text(text, &source(env))
}

fn good(text: &str, env: &[(&str, &str)]) -> Config {
    load(text, env).unwrap_or_else(|faults| panic!("{faults:#?}")).config
}

/// The faults of a text as `LINE: PATH: MESSAGE`.
fn faults(text: &str) -> Vec<String> {
    load(text, &[]).expect_err("faults").iter().map(Fault::to_string).collect()
}

fn route<'a>(config: &'a Config, model: &str) -> Vec<(&'a str, Option<&'a str>)> {
    let route = config.routes.iter().find(|route| route.model == model).expect("a route");
    route.deployments.iter().map(|d| (&*d.provider, d.model.as_deref())).collect()
}

#[test]
fn nothing_at_all_is_the_playbook() {
    let loaded = load("", &[("OPENAI_API_KEY", "sk-1"), ("CO_API_KEY", "co-1"), ("HF_TOKEN", "")]).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:8081");
    assert_eq!(&*config.default_provider, "openai");
    assert_eq!(route(&config, "gpt-4o"), [("openai", Some("gpt-4o"))]);
    assert_eq!(route(&config, "claude-sonnet-4"), [("anthropic", Some("claude-sonnet-4-6"))]);
    assert_eq!(route(&config, "claude-*"), [("anthropic", None)]);
    assert_eq!(route(&config, "llama-3-70b"), [("groq", Some("openai/gpt-oss-120b"))]);
    // Every preset that has an address is a provider already, and the README names it.
    let names: BTreeSet<&str> = config.providers.keys().map(|name| &**name).collect();
    let presets = PRESETS.iter().filter(|preset| preset.base_url.is_some()).map(|preset| preset.name);
    assert_eq!(names, presets.collect());
    assert!(names.contains("anthropic") && names.contains("groq") && names.len() >= 14, "{names:?}");
    let readme = include_str!("../../README.md");
    let list = readme
        .split("Providers are there under their own names")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .unwrap();
    let unnamed: Vec<_> = names.iter().filter(|name| !list.contains(&format!("`{name}`"))).collect();
    assert!(unnamed.is_empty(), "the README does not name {unnamed:?}");
    let openai = &config.providers["openai"];
    assert_eq!((openai.credentials, openai.auth), (Credentials::Auto, AuthStyle::Bearer));
    assert_eq!(openai.key.as_ref().unwrap().expose(), "sk-1");
    assert_eq!(config.providers["cohere"].key.as_ref().unwrap().expose(), "co-1");
    assert!(config.providers["huggingface"].key.is_none(), "set but empty counts as unset");
    assert_eq!(config.providers["ollama"].base.to_string(), "http://127.0.0.1:11434/v1");
    assert_eq!(config.http.max_body_bytes, 64 << 20);
    assert_eq!(config.retry.attempts, 3);
    assert!(config.server.threads > 0 && !config.dev);
}

#[test]
fn the_file_speaks_over_the_defaults() {
    let text = r#"
listen:
  - {address: "[::1]:9000", http2: false}
  - {address: 127.0.0.1:9001}
admin: off
http: {max_body: 8MB, body_timeout: 2m}
providers:
  openai: {api_key: env:TEAM_KEY, credentials: passthrough, timeouts: {connect: 250ms}}
  work: {preset: azure, base_url: "https://x.openai.azure.com/openai/v1", query: api-version=preview, api_key: az-1}
  lab: {base_url: http://lab:8000/v1, stream_usage: false, headers: {x-team: env:TEAM, X-Fixed: "1"}}
routes:
  - {model: gpt-4o, aliases: [best], to: [work/gpt4o-eu, openai]}
  - {model: "claude-*", to: [{provider: lab, model: org/claude}, {provider: lab}]}
default_provider: work
"#;
    let config = good(text, &[("TEAM_KEY", " sk-team\n"), ("TEAM", "blue")]);
    assert_eq!(config.listeners.len(), 2);
    assert_eq!((config.admin, config.listeners[0].http2), (None, false));
    assert_eq!(config.http.max_body_bytes, 8_000_000);
    let openai = &config.providers["openai"];
    assert_eq!((openai.connect_timeout, openai.read_timeout), (Duration::from_millis(250), Duration::from_secs(600)));
    assert_eq!(openai.key.as_ref().unwrap().expose(), "sk-team");
    let work = &config.providers["work"];
    assert_eq!((work.auth, work.credentials), (AuthStyle::ApiKeyHeader, Credentials::Mapped));
    assert_eq!(work.query.as_deref(), Some("api-version=preview"));
    let lab = &config.providers["lab"];
    assert_eq!((lab.vendor, lab.stream_usage), (Vendor::Custom, false));
    let asks = |name: &str| config.providers[name].stream_usage;
    assert_eq!((["openai", "work", "mistral"].map(asks)), [true, true, false]);
    let header = |name: &str| lab.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().unwrap());
    assert_eq!((header("x-team"), header("x-fixed")), (Some("blue"), Some("1")));
    assert_eq!(route(&config, "gpt-4o"), [("work", Some("gpt4o-eu")), ("openai", Some("gpt-4o"))]);
    assert_eq!(route(&config, "claude-*"), [("lab", Some("org/claude")), ("lab", None)]);
    // The file's pattern covers the default route `claude-sonnet-4`; the others are still there.
    assert!(!config.routes.iter().any(|route| route.model == "claude-sonnet-4"));
    assert_eq!(config.routes.len(), 2 + 4);
}

#[test]
fn the_environment_speaks_over_the_file() {
    let text =
        "listen: [{address: 127.0.0.1:1}, {address: 127.0.0.1:2}]\nproviders: {ollama: {base_url: http://a:1}}\n";
    let env =
        [("CAN_LISTEN", "0.0.0.0:8080"), ("CAN_ADMIN_LISTEN", "0.0.0.0:8081"), ("OLLAMA_BASE_URL", "http://o:11434")];
    let config = good(text, &env);
    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:8080", "127.0.0.1:2"]);
    assert_eq!(config.admin.unwrap().to_string(), "0.0.0.0:8081");
    assert_eq!(config.providers["ollama"].base.to_string(), "http://o:11434/v1");
    assert_eq!(good("", &[("CAN_ADMIN_LISTEN", "off")]).admin, None);

    let wrong = [("CHITTYCAN_MODE", "devel"), ("CAN_LISTEN", "8080"), ("OLLAMA_BASE_URL", "o:1")];
    let faults: Vec<_> = load("mode: dve\n", &wrong).unwrap_err().into_iter().map(|fault| fault.path).collect();
    assert_eq!(faults, ["CAN_LISTEN", "CHITTYCAN_MODE", "OLLAMA_BASE_URL", "mode"]);
}

#[test]
fn dev_mode_leaves_ollama_alone_in_charge() {
    let env = [("CHITTYCAN_MODE", "dev"), ("OLLAMA_BASE_URL", "http://ollama:11434"), ("OPENAI_API_KEY", "sk-1")];
    let config = good("dev: {ollama: {models: {gpt-4o: qwen3, \"gpt-*\": llama3.2, \"gpt-4*\": phi4}}}", &env);
    assert!(config.dev);
    assert_eq!((config.providers.len(), &*config.default_provider), (1, "ollama"));
    let ollama = &config.providers["ollama"];
    assert_eq!(ollama.base.to_string(), "http://ollama:11434/v1");
    for (asked, served) in
        [("gpt-4o", "qwen3"), ("gpt-4o-mini", "phi4"), ("gpt-5", "llama3.2"), ("llama-3-70b", "llama-3-70b")]
    {
        assert_eq!(ollama.mapped_model(asked), served);
    }
    assert!(config.routes.iter().all(|route| route.deployments[0].model.is_none()));
    assert_eq!(route(&config, "claude-sonnet-4"), [("ollama", None)]);
    let standard = good("mode: dev", &[]);
    assert_eq!(standard.providers["ollama"].mapped_model("text-embedding-3-small"), "nomic-embed-text");
    assert_eq!(standard.providers["ollama"].mapped_model("anything"), "llama3.2");
}

#[test]
fn the_simulated_provider_stands_behind_every_name() {
    let mut source = source(&[]);
    source.simulate = true;
    let text = "providers: {openai: {api_key: env:ABSENT, headers: {x-a: file:/absent}, query: a=b}}";
    let config = Config::load_text(text, &source).unwrap().config.simulated("127.0.0.1:4000".parse().unwrap());
    for provider in config.providers.values() {
        assert_eq!(provider.base.to_string(), "http://127.0.0.1:4000/v1");
        assert!(provider.query.is_none() && provider.key.is_some() && provider.headers.is_empty());
        // The headers by which a client asks the simulated provider for faults.
        assert_eq!(provider.forward_headers, ["x-simulate", "x-simulate-key"]);
    }
    assert_eq!(route(&config, "claude-sonnet-4"), [("anthropic", None)]);
}

#[test]
fn what_crosses_the_gateway_is_checked() {
    let load = |text: &str| Config::load_text(text, &source(&[])).map(|loaded| loaded.config);
    let text = "providers: {groq: {forward_headers: [X-Custom, x-ok, Authorization, x-forwarded-for, X-CUSTOM, 'a b', \
                X-HTTP-Method-Override, x-chittycan-cache, host]}}\n\
                admin: {hosts: [good.example, 'http://bad', 'bad:80', '']}\n\
                http: {cors: {allow_origins: ['https://a.example', 'a.example', 'https://a.example/x', 'https://*.example'], \
                allow_headers: ['b c'], max_age: 2d}}\n";
    let faults = load(text).unwrap_err();
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    let mut expected = vec!["http.cors.allow_headers[0]", "http.cors.max_age"];
    let (origins, hosts) =
        ([1, 2, 3].map(|n| format!("http.cors.allow_origins[{n}]")), [1, 2, 3].map(|n| format!("admin.hosts[{n}]")));
    let names = [2, 3, 4, 5, 6, 7, 8].map(|n| format!("providers.groq.forward_headers[{n}]"));
    expected.extend(origins.iter().chain(&hosts).chain(&names).map(String::as_str));
    for path in &expected {
        assert!(paths.contains(path), "{path} in {paths:?}");
    }
    assert_eq!(paths.len(), expected.len(), "{paths:?}");

    let config =
        load("http: {cors: {allow_origins: ['HTTPS://App.example:8443']}}\nadmin: {hosts: [Can.Example.]}").unwrap();
    let cors = config.http.cors.unwrap();
    assert!(!cors.any_origin && cors.origins == ["https://app.example:8443"] && cors.allow_headers.is_none());
    assert_eq!(config.admin_hosts, ["can.example"]);
    assert!(load("").unwrap().http.cors.is_none(), "off by default");
    let env = source(&[("CAN_ADMIN_HOSTS", "one, Two.example"), ("CAN_ADMIN_LISTEN", "127.0.0.1:9")]);
    let config = Config::load_text("admin: {hosts: [three]}", &env).unwrap().config;
    assert_eq!(config.admin_hosts, ["one", "two.example"]);
    let env = source(&[("CAN_ADMIN_LISTEN", "127.0.0.1:9")]);
    let config = Config::load_text("admin: {hosts: [three]}", &env).unwrap().config;
    assert_eq!(config.admin_hosts, ["three"], "another address has the same names");
}

#[test]
fn all_faults_are_reported_at_once() {
    let text = r#"mode: prod
listen:
  - {address: 127.0.0.1:8081, tls: {cert: /absent.crt}}
  - address: localhost:80
    tls: {cert: /absent.crt, key: /absent.key}
admn: off
http:
  max_body: 64 MB
  body_timeout: 30
  keepalive: 0s
log: {level: loud, access: "yes"}
providers:
  groq: {api_key: env:NOT_SET, credentials: auto}
  mine: {preset: costum, http2: 1}
  azure: {api_key: "env:sk-hunter2"}
  lab: {base_url: "lab:8000", headers: {"bad name": x, Host: y}, ca_file: /absent.pem}
  opn: {base_url: https://h/v1, api_key: file:/absent.key, timeouts: {conect: 5s}}
routes:
  - {model: a, to: []}
  - {model: b, aliases: [c, "d-*"], to: [opnai/x, groq, groq]}
  - {model: c, to: mine}
  - {model: "x*y", to: [{provder: groq}, nobody]}
  - {model: 5, to: [groq]}
  - {model: c, to: [groq/]}
default_provider: azur
retry: {attempts: 0, statuses: [200, 429, "500"]}
prices: {file: /absent.yaml}
dev: {ollama: {base_url: "ftp://x", models: {"a*b": m, e: ""}}}
http: {}
"#;
    let expected = r#"admin.address: 127.0.0.1:8081 clashes with 127.0.0.1:8081, an entry of `listen`
1: mode: `prod` is not one of `normal`, `dev`
3: listen[0].tls: `key` is missing
4: listen[1].address: `localhost:80` is not an address and port
5: listen[1].tls.cert: cannot read `/absent.crt`
5: listen[1].tls.key: cannot read `/absent.key`
6: admn: unknown key; did you mean `admin`?
8: http.max_body: `64 MB` is not a size
9: http.body_timeout: expected a duration such as `30s`, found the number 30; a bare number has no unit
10: http.keepalive: must be longer than 0
11: log.access: expected `true` or `false`, found text
11: log.level: `loud` is not one of `error`, `warn`, `info`, `debug`, `trace`
13: providers.groq.api_key: the environment variable `NOT_SET` is not set
13: providers.groq.credentials: only `mapped` is allowed for the preset `groq`
14: providers.mine.http2: expected `true` or `false`, found the number 1
14: providers.mine.preset: `costum` is not one of `openai`, `anthropic`
15: providers.azure: `base_url` is missing: the preset `azure` has none of its own
15: providers.azure.api_key: what follows `env:` is not the name of an environment variable
16: providers.lab.base_url: `lab:8000` does not start with https:// or http://
16: providers.lab.ca_file: cannot read `/absent.pem`
16: providers.lab.headers.Host: this header belongs to the connection
16: providers.lab.headers["bad name"]: not a header name
17: providers.opn.api_key: cannot read `/absent.key`
17: providers.opn.timeouts.conect: unknown key; did you mean `connect`?
19: routes[0].to: the list is empty
20: routes[1].aliases[1]: an alias is a name, not a pattern
20: routes[1].to[0]: no provider is called `opnai`; did you mean `openai`?
20: routes[1].to[2]: this target is in the list already
21: routes[2].to: expected a list, found text
22: routes[3].model: `*` is allowed at the end only, as in `x*`
22: routes[3].to[0]: `provider` is missing
22: routes[3].to[0].provder: unknown key; did you mean `provider`?
22: routes[3].to[1]: no provider is called `nobody`; known: anthropic,
23: routes[4].model: expected text, found the number 5; put it in quotes
24: routes[5].model: `c` is named by routes[1].aliases[0], on line 20 already
24: routes[5].to[0]: what follows the provider is not the name of a model
25: default_provider: no provider is called `azur`; did you mean `azure`?
26: retry.attempts: 0 is less than the least allowed, 1
26: retry.statuses[0]: 200 is less than the least allowed, 400
26: retry.statuses[2]: expected a whole number, found text
27: prices.file: cannot read `/absent.yaml`
28: dev.ollama.base_url: `ftp://x` does not start with https:// or http://
28: dev.ollama.models.e: not the name of a model
28: dev.ollama.models["a*b"]: `*` is allowed at the end only, as in `a*`
29: http: this key is here already, on line 7
"#;
    let found = faults(text);
    for (found, expected) in found.iter().zip(expected.lines()) {
        assert!(found.starts_with(expected), "expected {expected}\nfound    {found}");
    }
    assert_eq!(found.len(), expected.lines().count(), "{found:#?}");
}

#[test]
fn a_syntax_fault_names_its_line() {
    for (text, line, part) in [
        ("http:\n  max_body: 1MB\n max: 2\n", 3, "not valid YAML"),
        ("routes: [\n  {model: a\n", 3, "not valid YAML"),
        ("a\n", 1, "must be a mapping"),
        ("- a\n", 1, "must be a mapping"),
        ("http: []\n", 1, "expected a mapping, found a list"),
        ("listen: []\n", 1, "at least one address"),
    ] {
        let found = load(text, &[]).unwrap_err();
        assert_eq!((found.len(), found[0].line), (1, Some(line)), "{text}: {found:?}");
        assert!(found[0].message.contains(part), "{text}: {found:?}");
    }
}

#[test]
fn sockets_that_clash_are_found() {
    for (text, clashes) in [
        ("listen: [{address: 0.0.0.0:80}, {address: 127.0.0.1:80}]", true),
        ("listen: [{address: 127.0.0.1:0}, {address: 127.0.0.1:0}]", false),
        ("listen: [{address: 127.0.0.1:80}, {address: 127.0.0.2:80}]", false),
        ("{listen: [{address: \"[::]:80\"}], admin: {address: 127.0.0.1:80}}", true),
    ] {
        assert_eq!(load(text, &[]).is_err(), clashes, "{text}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let text =
        "providers:\n  openai: {api_key: sk-hunter2, headers: {authorization: hunter2}}\n  groq: {api_key: env:G}\n";
    let loaded = load(text, &[("G", "gsk-hunter2")]).unwrap();
    let shown = format!("{loaded:?} {:#?} {}", loaded.config, loaded.to_yaml());
    assert!(!shown.contains("hunter2"), "{shown}");
    let yaml = loaded.to_yaml();
    assert!(yaml.contains("api_key: env:G") && yaml.contains("api_key: \"[redacted]\""), "{yaml}");
    // Printed output is not mistaken for a working file, and a secret in the wrong place is not repeated.
    let faults = load(&yaml, &[("G", "gsk-hunter2")]).unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    for text in [
        "providers: {openai: {api_key: [sk-hunter2]}}",
        "providers: {openai: {api_key: \"sk-hunter2\\u0001\"}}",
        "providers: {openai: {api_key: {key: sk-hunter2}}}",
        "providers: {openai: sk-hunter2}",
        "providers: {openai: {base_url: \"https://u:sk-hunter2@h/v1\"}}",
        "providers: {openai: {headers: {x: \"sk-hunter2\\n\\u0001\"}}}",
    ] {
        let faults = load(text, &[]).unwrap_err();
        assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn printed_output_is_valid_input_and_means_the_same() {
    let text =
        "mode: normal\nproviders:\n  lab: {base_url: http://lab/v1}\nroutes: [{model: x, to: [lab/y]}]\nadmin: off\n";
    let env = [("OPENAI_API_KEY", "sk-1")];
    let first = load(text, &env).unwrap();
    let second = load(&first.to_yaml(), &env).unwrap();
    assert_eq!(format!("{:?}", first.config), format!("{:?}", second.config));
    assert_eq!(first.to_yaml(), second.to_yaml());
}

#[test]
fn files_are_read_from_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("can.yaml");
    fs::write(dir.path().join("key"), "sk-from-file\n").unwrap();
    fs::write(&file, "providers: {openai: {api_key: file:key}}\n").unwrap();
    let mut source = source(&[]);
    source.file = Some(file.clone());
    let loaded = Config::load(&source).unwrap();
    assert_eq!(loaded.config.providers["openai"].key.as_ref().unwrap().expose(), "sk-from-file");
    assert_eq!(loaded.files, [dir.path().join("key"), file.clone()]);

    fs::write(dir.path().join("key"), "\n").unwrap();
    assert_eq!(Config::load(&source).unwrap_err()[0].message, "the secret is empty");
    fs::write(&file, b"a: 1\n\xff\n").unwrap();
    assert_eq!(Config::load(&source).unwrap_err()[0].message, "is not UTF-8 text (line 2)");
    source.file = Some(dir.path().join("absent"));
    assert!(Config::load(&source).unwrap_err()[0].message.starts_with("cannot be read"));
}

#[test]
fn every_example_is_good_and_says_how_to_run_it() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(&format!("can serve --config {name}")), "{name} does not say how to run it");
        // The command line in the example sets every variable that the file needs, and those of the presets.
        let line = text.lines().find(|line| line.contains("can serve")).unwrap().to_owned();
        let look = move |variable: &str| line.contains(&format!("{variable}=")).then(|| "whsec_c2VjcmV0".to_owned());
        let loaded = Config::load(&Source { file: Some(file.clone()), env: Arc::new(look), simulate: false });
        let loaded = loaded.unwrap_or_else(|faults| panic!("{name}: {faults:#?}"));
        assert!(!loaded.config.routes.is_empty(), "{name}");
        count += 1;
    }
    assert!(count >= 4, "{count} examples");
}

#[test]
fn a_file_without_a_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("can.yaml");
    let mut source = source(&[]);
    assert!(Config::load(&source).is_ok(), "no file is no empty file");
    source.file = Some(file.clone());
    for text in ["", " \n\n", "# all of it\n# commented out\n", "null\n", "~", "{}\n", "---\n...\n", "\u{feff}"] {
        fs::write(&file, text).unwrap();
        let faults = Config::load(&source).unwrap_err();
        assert!(faults.len() == 1 && faults[0].message.starts_with("is empty; "), "{text:?}: {faults:?}");
    }
    fs::write(&file, "mode: normal\n").unwrap();
    assert!(Config::load(&source).is_ok());
    fs::write(&file, "a: [").unwrap();
    assert!(Config::load(&source).unwrap_err()[0].message.starts_with("not valid YAML"), "a broken one says so");
}

#[test]
fn a_file_that_was_cut_off_is_told_from_one_that_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = source(&[]);
    source.file = Some(dir.path().join("can.yaml"));
    let text = |text: &str| {
        fs::write(source.file.as_ref().unwrap(), text).unwrap();
        Config::load(&source).unwrap().text
    };
    let whole = text("mode: normal\nlog: {level: info}\n");
    for cut in ["mode: normal\n", "mode: normal\nlog:", "mode: normal\nlog: {level: info}"] {
        assert!(whole.cut_off(&text(cut)).unwrap().starts_with("is truncated: "), "{cut:?}");
    }
    assert!(whole.cut_off(&text("mode: normal\nlog: {level: warn}")).unwrap().contains("line break"));
    for other in
        ["mode: normal\nlog: {level: info}\n", "mode: normal\nlog: {level: info}\n# more\n", "log: {level: info}\n"]
    {
        assert_eq!(whole.cut_off(&text(other)), None, "{other:?}");
    }
    assert_eq!(text("mode: normal").cut_off(&text("mode: dev")), None, "neither has a last line break");
    assert!(!format!("{whole:?}").contains("normal"), "it may hold secrets");
}

#[test]
fn a_provider_without_a_key_is_worth_a_word() {
    let loaded = load("providers:\n  groq: {}\n  openai: {credentials: mapped}\n", &[]).unwrap();
    let shown: Vec<_> = loaded.warnings.iter().map(Fault::to_string).collect();
    assert_eq!(
        shown,
        [
            "2: providers.groq: no key: set GROQ_API_KEY, or `api_key`; requests to it will fail",
            "3: providers.openai: no key: set OPENAI_API_KEY, or `api_key`; requests to it will fail",
        ]
    );
}

#[test]
fn keys_that_go_elsewhere_by_default_are_worth_a_word() {
    let warned = |text: &str| load(text, &[("OPENAI_API_KEY", "k")]).unwrap().warnings.len();
    assert_eq!(warned("providers: {openai: {base_url: https://eu.api.openai.com/v1}}"), 0);
    assert_eq!(warned("providers: {openai: {base_url: https://openai.com.example/v1}}"), 1);
    assert_eq!(warned("providers: {anthropic: {base_url: https://myanthropic.com/v1}}"), 1);
    assert_eq!(warned("providers: {anthropic: {base_url: https://api.anthropic.com/v1}}"), 0);
    for chosen in ["auto", "passthrough", "mapped"] {
        assert_eq!(
            warned(&format!("providers: {{x: {{preset: openai, base_url: http://x, credentials: {chosen}}}}}")),
            0
        );
    }
}

#[test]
fn numbers_out_of_range_have_a_line() {
    for text in [
        "http: {max_body: 99999999999999}",
        "http: {max_body: -1}",
        "http: {max_body: 99999999999999999999}",
        "server: {threads: 4294967296}",
        "server: {threads: 1.0}",
        "retry: {statuses: [70000]}",
    ] {
        let found = load(text, &[]).unwrap_err();
        assert_eq!((found.len(), found[0].line), (1, Some(1)), "{found:?}");
    }
}

#[test]
fn knows_what_needs_a_restart() {
    let old = good("", &[]);
    let new = good("log: {level: debug}\nadmin: off\nretry: {attempts: 1}\n", &[]);
    assert_eq!(old.needs_restart(&new), ["admin", "log"]);
    assert_eq!(old.needs_restart(&old.clone()), [""; 0]);
}

/// Text that is nearly a configuration, to reach cases that random characters never reach.
fn nearly() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "providers",
        "openai",
        "routes",
        "model",
        "to",
        "http",
        "max_body",
        "listen",
        "address",
        "tls",
        "cert",
        "admin",
        "off",
        "dev",
        "ollama",
        "models",
        "retry",
        "attempts",
        "statuses",
        "5",
        "30s",
        "-1",
        "1e999",
        "gpt-*",
        "*",
        "~",
        "env:X",
        "file:/",
        "\"x\"",
        "127.0.0.1:1",
        "http://h/v1",
        "&a",
        "*a",
        "!t",
        "[",
        "]",
        "{",
        "}",
        ":",
        ": ",
        ",",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "|",
        "?",
        "---",
        "#",
        "'",
        "\u{feff}",
        "\t",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_text_makes_the_loader_panic(text in nearly(), noise in any::<String>()) {
        for text in [format!("{text}{noise}"), text, noise] {
            for fault in load(&text, &[]).err().unwrap_or_default() {
                // serde reads everything that passes the schema.
                prop_assert!(!fault.message.starts_with("cannot be read"), "{}\n{}", fault, text);
            }
        }
    }

    /// A well-formed tree of known keys and arbitrary values, which gets past the YAML parser every time.
    #[test]
    fn what_the_schema_lets_through_can_be_read(value in tree()) {
        let value = serde_json::json!(value);
        for fault in load(&emit::yaml(&value), &[]).err().unwrap_or_default() {
            prop_assert!(!fault.message.starts_with("cannot be read"), "{}\n{}", fault, value);
        }
    }
}

fn tree() -> impl Strategy<Value = serde_json::Value> {
    let key = prop::sample::select(vec![
        "mode",
        "listen",
        "admin",
        "server",
        "http",
        "log",
        "providers",
        "routes",
        "retry",
        "prices",
        "dev",
        "simulate",
        "openai",
        "azure",
        "x",
        "preset",
        "base_url",
        "api_key",
        "credentials",
        "headers",
        "query",
        "stream_usage",
        "timeouts",
        "model",
        "aliases",
        "to",
        "provider",
        "address",
        "tls",
        "cert",
        "key",
        "http2",
        "max_body",
        "keepalive",
        "threads",
        "ollama",
        "models",
        "attempts",
        "statuses",
        "level",
        "format",
        "latency",
        "file",
        "connect",
        "gpt-*",
    ]);
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "off", "dev", "normal", "30s", "64MiB", "auto", "custom", "a/b", "*", "env:X", "http://h"
        ])
        .prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        (0..600i64).prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
        "\\PC{0,8}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            3 => prop::collection::btree_map(key.clone(), inner.clone(), 0..8).prop_map(|map| serde_json::json!(map)),
            1 => prop::collection::vec(inner, 0..4).prop_map(serde_json::Value::from),
        ]
    })
}
