//! The room that connection tracking gets. Its limit is the machine's own: namespaces and containers may only read it.

use crate::proxy_node::portolan_proxy;

fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn room() -> u64 {
    number("/proc/sys/net/netfilter/nf_conntrack_max")
}

#[test]
#[ignore = "raises a limit of the machine itself: for the guest"]
fn connection_tracking_gets_the_room_that_is_asked_for() {
    let ask = |per_core: u64, least: u64| {
        let flags = [format!("--conntrack-max-per-core={per_core}"), format!("--conntrack-min={least}")];
        let output = portolan_proxy(&["--init-only", &flags[0], &flags[1]]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let processors = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let before = room();
    ask(0, 2 * before);
    assert_eq!(room(), before, "0 per processor leaves it as it is");
    ask(before + 1, 1);
    assert_eq!(room(), (before + 1) * processors);
    let least = (before + 1) * processors + 5;
    ask(1, least);
    assert_eq!(room(), least);
    let buckets = number("/sys/module/nf_conntrack/parameters/hashsize");
    assert!(buckets >= least / 4, "{buckets} buckets for {least} entries");
    ask(1, 1);
    assert_eq!(room(), least, "who has set it higher has a reason");
}
