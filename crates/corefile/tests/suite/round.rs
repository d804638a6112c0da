//! What is printed reads the same.

use corefile::parse;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::machine;

/// Directives with options, good ones and bad ones: the first line of each, and those of its block.
fn pool() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut pool: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in include_str!("../corefiles/directives").lines() {
        match line.split_at(2) {
            ("= ", head) => pool.push((head, Vec::new())),
            (_, option) => pool.last_mut().expect("a directive comes first").1.push(option),
        }
    }
    pool
}

/// Reads a text, and if it can be read, what is printed of it.
fn again(text: &str) -> bool {
    let machine = machine();
    let Ok(read) = parse("Corefile", text, &machine, 53) else { return false };
    let printed = read.to_string();
    let second = parse("Corefile", &printed, &machine, 53);
    let second =
        second.unwrap_or_else(|problems| panic!("{text}\nis printed as\n{printed}\nwhich is wrong:\n{problems}"));
    assert_eq!(read.servers, second.servers, "{text}\nis printed as\n{printed}");
    assert_eq!(printed, second.to_string());
    true
}

fn runner(cases: u32) -> TestRunner {
    let seed = RngSeed::Fixed(20_260_101);
    TestRunner::new(Config { cases, rng_seed: seed, failure_persistence: None, ..Config::default() })
}

#[test]
fn every_single_option_is_printed_as_it_is_read() {
    let mut read = 0;
    for (head, options) in pool() {
        read += u32::from(again(&format!("example.org {{\n{head}\n}}\n")));
        for option in options {
            read += u32::from(again(&format!("example.org {{\n{head} {{\n{option}\n}}\n}}\n")));
        }
    }
    for text in include_str!("../corefiles/language").split("=====\n") {
        read += u32::from(again(text));
    }
    assert!(read > 300, "{read}");
}

#[test]
fn odd_words_are_printed_as_they_are_read() {
    for text in [
        "a\\e\\ \"b c\" d\\\\ {\n}\n",
        ".\nnsid \"a  b\" c \"\"\n",
        ".\nchaos {$TWO} \"x\\\"#\" y\\\"z \"two\nlines\"\n",
        ".\nrewrite name a b\\\n",
        ".\nlog . {combined}\n",
        ".\nforward . [fe80::1%eth0]:54 tls://dns.example%name 192.0.2.1:\n",
    ] {
        assert!(again(text), "{text}");
    }
    for text in
        [".\nlog . {combined}\\\n", ".\nchaos {$NONE}}\n", ".\nforward . ::1]:53\n", ".\nforward . tls://::1%a]b\n"]
    {
        assert!(!again(text), "{text}");
    }
}

#[test]
fn combinations_of_options_are_printed_as_they_are_read() {
    // Of what can be read alone, so that most of it can be together.
    let good: Vec<(&str, Vec<&str>)> = pool()
        .into_iter()
        .map(|(head, options)| {
            let good = |option: &&str| again(&format!("example.org {{\n{head} {{\n{option}\n}}\n}}\n"));
            (head, options.into_iter().filter(good).collect())
        })
        .collect();
    let count = good.len();
    let directive = (0..count, prop::collection::vec(0..64usize, 0..6));
    let blocks = prop::collection::vec(prop::collection::vec(directive, 0..5), 1..4);
    let read = std::cell::Cell::new(0);
    let history = |blocks: Vec<Vec<(usize, Vec<usize>)>>| {
        let mut text = String::new();
        for (number, block) in blocks.iter().enumerate() {
            text.push_str(&format!("zone{number}.example tls://zone{number}.example:{} {{\n", 1000 + number));
            for (at, chosen) in block {
                let (head, options) = &good[*at];
                let lines: Vec<&str> = match options.len() {
                    0 => Vec::new(),
                    length => chosen.iter().map(|option| options[option % length]).collect(),
                };
                match &lines[..] {
                    [] => text.push_str(&format!("{head}\n")),
                    lines => text.push_str(&format!("{head} {{\n{}\n}}\n", lines.join("\n"))),
                }
            }
            text.push_str("}\n");
        }
        read.set(read.get() + u32::from(again(&text)));
        Ok(())
    };
    runner(600).run(&blocks, history).unwrap();
    assert!(read.get() > 60, "{} of 600 could be read", read.get());
}

#[test]
fn no_text_makes_it_panic() {
    let word = prop::sample::select(vec![
        "{",
        "}",
        "\n",
        "\"",
        "\\",
        "#",
        ",",
        "import",
        "(a)",
        "a",
        ".",
        ":53",
        "{$DOMAIN}",
        "{%",
        "forward",
        "cache",
        "rewrite",
        "template",
        "IN",
        "A",
        "{{",
        "}}",
        "acl",
        "net",
        "*",
        "10.0.0.0/9",
        "::/3:5",
        "-",
        "\u{feff}",
        "é",
        "5s",
    ]);
    let words = prop::collection::vec((word, any::<bool>()), 0..40);
    let text = words.prop_map(|words| {
        words.into_iter().map(|(word, space)| format!("{word}{}", if space { " " } else { "" })).collect::<String>()
    });
    runner(2000)
        .run(&text, |text| {
            again(&text);
            Ok(())
        })
        .unwrap();
    runner(500)
        .run(&"\\PC{0,200}", |text| {
            again(&text);
            Ok(())
        })
        .unwrap();
}
