//! Files that operators write.

use std::sync::OnceLock;

use corefile::{Fixed, parse};

/// A Corefile on a machine with a few files: what can be read is printed, and reads the same again.
pub fn corefile(bytes: &[u8]) {
    static MACHINE: OnceLock<Fixed> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        Fixed::default()
            .file("/etc/resolv.conf", "search a.example\nnameserver 192.0.2.1\n")
            .file("/conf/part", "errors\nimport part\n")
            .file("/conf/more", "log\ncache {\n keepttl\n}\n")
            .variable("NAME", "a.example")
    });
    let text = String::from_utf8_lossy(bytes);
    let Ok(read) = parse("/conf/Corefile", &text, machine, 53) else { return };
    let _ = (read.listeners(), serde_json::to_string(&read));
    let printed = read.to_string();
    // A word can become a reference to a variable by losing another one within.
    if printed.contains("{%") || printed.contains("{$") {
        return;
    }
    match parse("/conf/Corefile", &printed, machine, 53) {
        Ok(again) => assert_eq!(read.servers, again.servers, "printed, it says something else"),
        Err(problems) => panic!("printed, it is wrong: {problems}"),
    }
}
