use super::*;

fn ids(body: &str) -> Vec<String> {
    scan(body.as_bytes(), Api::OpenAi).unwrap().into_iter().map(|found| found.id).collect()
}

#[test]
fn the_table_is_sorted() {
    assert!(FIELDS.is_sorted_by_key(|(name, _)| *name) && PARAMETERS.is_sorted_by_key(|(name, _)| *name));
}

#[test]
fn every_way_to_refer_is_seen() {
    for (body, expected) in [
        (r#"{"input_file_id":"file-1","endpoint":"/v1/responses"}"#, vec!["file-1"]),
        (
            r#"{"training_file":"file-1","validation_file":"file-2","model":"ft:gpt-4o:x"}"#,
            vec!["file-1", "file-2", "ft:gpt-4o:x"],
        ),
        (r#"{"previous_response_id":"resp_1","conversation":"conv_1"}"#, vec!["resp_1", "conv_1"]),
        (
            r#"{"conversation":{"id":"conv_1"},"prompt":{"id":"pmpt_1","variables":{"a":{"type":"input_file","file_id":"file-1"}}}}"#,
            vec!["conv_1", "file-1", "pmpt_1"],
        ),
        (
            r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1","vs_2"]},{"container":{"type":"auto","file_ids":["file-1"]}},{"container":"cntr_1"}]}"#,
            vec!["vs_1", "vs_2", "file-1", "cntr_1"],
        ),
        (
            r#"{"input":[{"type":"message","content":[{"type":"input_file","file_id":"file-1"}]},{"id":"msg_1"},{"type":"item_reference","id":"rs_1"}]}"#,
            vec!["file-1", "msg_1", "rs_1"],
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]},{"audio":{"id":"audio_1"}}]}"#,
            vec!["file-1", "audio_1"],
        ),
        (
            r#"{"files":[{"file_id":"file-1","attributes":{"file_id":"x"}}],"metadata":{"file_id":"x","conversation":"y"}}"#,
            vec!["file-1"],
        ),
        (r#"{"data_source":{"type":"completions","source":{"type":"file_id","id":"file-1"}}}"#, vec!["file-1"]),
        (
            r#"{"voice":"alloy","container":"auto","skills":[{"type":"anthropic","skill_id":"pptx"},{"skill_id":"skill_1"}]}"#,
            vec!["skill_1"],
        ),
        (
            r#"{"tools":[{"type":"function","parameters":{"properties":{"file_id":"x"}}}],"input":"file_id","user":"file-1"}"#,
            vec![],
        ),
        (
            r#"{"FILE_ID":"file-1","\u0066ile_ids":["file-2"],"container\u005fid":"cntr_1","tas\u212a":"x"}"#,
            vec!["file-1", "file-2", "cntr_1"],
        ),
        ("[{\"file_id\":\"file-1\"}]", vec!["file-1"]),
        ("{\"vector_\u{17f}tore_id\":\"vs_1\",\"f\u{131}le_id\":\"file-1\"}", vec!["vs_1", "file-1"]),
    ] {
        let mut found = ids(body);
        found.sort();
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(found, expected, "{body}");
    }
}

#[test]
fn items_that_carry_their_content_reveal_nothing() {
    let strict = |item: &str| {
        let found = scan(format!(r#"{{"input":[{item}]}}"#).as_bytes(), Api::OpenAi).unwrap();
        (found.len() == 1).then(|| found[0].strict).unwrap()
    };
    assert!(!strict(r#"{"type":"message","id":"msg_1","content":"x"}"#));
    assert!(!strict(r#"{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"x"}"#));
    assert!(strict(r#"{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":null}"#));
    assert!(strict(r#"{"id":"rs_1","type":"reasoning","summary":[]}"#));
    assert!(strict(r#"{"id":"ig_1","type":"image_generation_call"}"#));
    assert!(strict(r#"{"id":"x","type":"item_reference","content":"x"}"#) && strict(r#"{"id":"x","content":"x"}"#));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for body in [
        r#"{"file_id":"a","file_id":"b"}"#,
        r#"{"file_id":"a","FILE_ID":"b"}"#,
        r#"{"a":[{"file_id":"a","file\u005fid":"b"}]}"#,
        "{\"vector_store_ids\":[],\"vector_\u{17f}tore_ids\":[\"b\"]}",
        r#"{"input":[{"type":"message","id":"a","ID":"b"}]}"#,
        r#"{"conversation":{"id":"a","id":"b"}}"#,
    ] {
        assert!(matches!(scan(body.as_bytes(), Api::OpenAi), Err(Refused::Twice(_))), "{body}");
    }
    for body in ["", "{", "{} x", "no JSON", "\u{feff}{}", &"[".repeat(200)] {
        assert!(matches!(scan(body.as_bytes(), Api::OpenAi), Err(Refused::Unreadable(_))), "{body}");
    }
    let wide = r#"{"data_source":{"type":"completions","source":{"type":"stored_completions"}}}"#;
    assert_eq!(scan(wide.as_bytes(), Api::OpenAi), Err(Refused::Wide("source")));
    let wide = r#"{"data_source_config":{"type":"logs"}}"#;
    assert_eq!(scan(wide.as_bytes(), Api::OpenAi), Err(Refused::Wide("data_source_config")));
}

#[test]
fn an_eval_over_all_that_is_stored_is_refused_with_and_without_a_source() {
    for wide in [
        r#"{"data_source":{"type":"stored_completions"}}"#,
        r#"{"data_source":{"type":"logs"}}"#,
        r#"{"data_source":{"type":"responses"}}"#,
        r#"{"data_source":{"type":"completions","model":"gpt-4o"}}"#,
        r#"{"data_source":{"source":null,"type":"responses"}}"#,
        r#"{"data_source":{"source":{},"type":"responses"}}"#,
        r#"{"data_source":{"source":[],"type":"responses"}}"#,
        r#"{"data_source":{"type":"responses","source":{"type":"responses"}}}"#,
        r#"{"dataSource":{"type":"responses"}}"#,
    ] {
        assert!(matches!(scan(wide.as_bytes(), Api::OpenAi), Err(Refused::Wide(_))), "{wide}");
    }
    for (narrow, expected) in [
        (r#"{"data_source":{"type":"responses","source":{"type":"file_id","id":"file-1"}}}"#, vec!["file-1"]),
        (r#"{"data_source":{"source":{"id":"file-1","type":"file_id"},"type":"completions"}}"#, vec!["file-1"]),
        (r#"{"data_source":{"type":"completions","source":{"type":"file_content","content":[]}}}"#, vec![]),
        (r#"{"data_source":{"type":"jsonl","source":{"type":"file_id","id":"file-1"}}}"#, vec!["file-1"]),
    ] {
        assert_eq!(ids(narrow), expected, "{narrow}");
    }
}

#[test]
fn an_object_that_may_be_read_as_a_list_refers_like_one() {
    let found = |body: &str| -> Vec<(String, bool)> {
        let found = scan(body.as_bytes(), Api::OpenAi).unwrap();
        found.into_iter().map(|reference| (reference.id, reference.strict)).collect()
    };
    let one = |id: &str, strict| vec![(id.to_owned(), strict)];
    for (body, expected) in [
        (r#"{"characters":{"0":{"id":"char_1"}}}"#, one("char_1", true)),
        (r#"{"file_ids":{"0":"file-1"}}"#, one("file-1", true)),
        (r#"{"file_ids":{"0":["file-1"]}}"#, one("file-1", true)),
        (r#"{"input":{"0":{"id":"msg_1"}}}"#, one("msg_1", true)),
        (r#"{"file_ids":{"a":"file-1"}}"#, one("file-1", false)),
        (r#"{"file_ids":{"a":{"b":["file-1"]}}}"#, one("file-1", false)),
        (r#"{"characters":{"a":{"id":"char_1"}}}"#, one("char_1", false)),
        (
            r#"{"container":{"memory_limit":"4g","file_ids":["file-1"]}}"#,
            vec![("4g".into(), false), ("file-1".into(), true)],
        ),
        // A schema that happens to have such a name does not refer to an existing object.
        (r#"{"guided_json":{"properties":{"file_id":{"type":"string","title":"File"}}}}"#, one("File", false)),
        (r#"{"voice":{"x":"alloy"},"video":{"url":"https://x"}}"#, one("https://x", false)),
        (r#"{"content":{"0":"x"},"prompt":{"variables":{"a":"x"}}}"#, vec![]),
    ] {
        assert_eq!(found(body), expected, "{body}");
    }
}

#[test]
fn what_anthropics_models_write_for_tools_is_no_reference() {
    let body = br#"{"container":{"id":"container_1"},"messages":[{"content":[{"type":"tool_use","id":"toolu_1","input":{"file_id":"x"}},
        {"type":"document","source":{"type":"file","file_id":"file_1"}}]}],"requests":[{"params":{"container":"container_2"}}]}"#;
    let found: Vec<_> = scan(body, Api::Anthropic).unwrap().into_iter().map(|found| found.id).collect();
    assert_eq!(found, ["container_1", "file_1", "container_2"]);
    let body = br#"{"a":[{"input":{"file_id":"x"},"type":"server_tool_use"}],"input":[{"file_id":"file_1"}]}"#;
    let found: Vec<_> = scan(body, Api::Anthropic).unwrap().into_iter().map(|found| found.id).collect();
    assert_eq!(found, ["file_1"]);
}

#[test]
fn the_quick_look_misses_no_reference() {
    for body in [
        r#"{"file_id":1}"#,
        r#"{"FILE_IDS":1}"#,
        r#"{"file_i\u0064":1}"#,
        r#"{"\u0066ile\u005fid":1}"#,
        "{\"f\u{131}le_\u{131}d\":1}",
        "{\"file_id\u{17f}\":1}",
        r#"{"audio":{"id":"x"}}"#,
        r#"{"conversation":"x"}"#,
        r#"{"x":"\"","Container" :"x"}"#,
        "{\"training_f\u{131}le\":1}",
    ] {
        assert!(may_refer(body.as_bytes()), "{body}");
    }
    // The quick check covers every name.
    for (name, form) in FIELDS {
        let ends = name.ends_with("id") || name.ends_with("ids");
        let refers = matches!(form, Form::Any | Form::Prefixed(_));
        assert_eq!(refers && !ends, OTHER_NAMES.contains(name), "{name}");
        if refers {
            let apart: String = name.chars().flat_map(|char| [char.to_ascii_uppercase(), '-']).collect();
            for spelling in [(*name).to_owned(), format!(" _{name}- "), apart] {
                assert!(may_refer(format!("{{\"{spelling}\":1}}").as_bytes()), "{spelling}");
            }
        }
    }
    let plain =
        r#"{"model":"gpt-4o","messages":[{"role":"user","content":"I did\u00e9 \"say\" it\n"}],"max_tokens":3}"#;
    assert!(!may_refer(plain.as_bytes()));
}

#[test]
fn queries_and_fields_are_read() {
    let found: Vec<_> = query("limit=3&after=file%2D1&AFTER=b&model=ft:x&model=gpt-4o&run_id[]=r+1")
        .into_iter()
        .map(|r| r.id)
        .collect();
    assert_eq!(found, ["file-1", "b", "ft:x", "r 1"]);
    let field =
        |name: &str, value: &str| scan_field(name, value).unwrap().into_iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(field("file_id", "file-1"), ["file-1"]);
    assert_eq!(field("video[id]", "video_1"), ["video_1"]);
    assert_eq!(field("input_reference[file_id]", "file-1"), ["file-1"]);
    assert_eq!(field("file_ids[]", "file-1"), ["file-1"]);
    assert_eq!(field("video", r#"{"id":"video_1"}"#), ["video_1"]);
    for (name, value) in [
        ("characters[0][id]", "char_1"),
        ("characters[][id]", "char_1"),
        ("file_ids[0]", "file-1"),
        ("file_ids[12]", "file-1"),
        ("file_ids.0", "file-1"),
        ("video[0]", "video_1"),
        ("tools[0][vector_store_ids][1]", "vs_1"),
        ("characters[0]", r#"{"id":"char_1"}"#),
        ("file_ids[a]", "file-1"),
    ] {
        assert_eq!(field(name, value).len(), 1, "{name}={value}");
    }
    assert_eq!(field("session", r#"{"tools":[{"file_id":"file-1"}]}"#), ["file-1"]);
    assert!(field("prompt", "{not JSON").is_empty() && field("purpose", "batch").is_empty());
    assert!(scan_field("session", r#"{"file_id":"a","file_id":"b"}"#).is_err());
}

#[test]
fn fine_tunes_are_told_by_their_names() {
    for model in [
        "ft:gpt-4o-mini:org::1",
        "FT:x",
        "davinci:ft-org-2023",
        "ft:gpt-4o:org::1:ckpt-step-9",
        " ft:x",
        "\tft:x",
        "f t:x",
        "\u{200b}ft:x",
        "\u{feff}ft:x",
        "\u{a0}f\u{2060}t:x",
        "\u{ff46}\u{ff54}\u{ff1a}x",
        "davinci: ft-org-2023",
    ] {
        assert!(is_fine_tune(model), "{model}");
    }
    for model in ["gpt-4o", "left:x", "soft-ft", "", "llama3:8b", "left :x", "modèle:x", " "] {
        assert!(!is_fine_tune(model), "{model}");
    }
}
