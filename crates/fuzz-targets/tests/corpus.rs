//! Every input that is kept, seeds and findings alike, goes through its target.

use std::fs;
use std::path::Path;

use fuzz_targets::TARGETS;

#[test]
fn no_kept_input_does_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut inputs: Vec<_> = files.flatten().map(|entry| entry.path()).collect();
        inputs.sort();
        assert!(inputs.len() >= 3, "{} has {} inputs", target.name, inputs.len());
        for input in inputs {
            // Shown when it fails.
            eprintln!("{}", input.display());
            (target.run)(&fs::read(&input).expect("a file"));
        }
        (target.run)(&[]);
    }
}
