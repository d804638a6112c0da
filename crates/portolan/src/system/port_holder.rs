//! Who listens on a TCP port of this machine, as far as `/proc` tells: what a person has to know who wants the port.

use std::fs;
use std::path::{Path, PathBuf};

/// 127.0.0.1 and every address, in IPv4 and IPv6, as `/proc/net` writes them on little-endian machines.
const ADDRESSES: [&str; 4] =
    ["0100007F", "00000000", "0000000000000000FFFF00000100007F", "00000000000000000000000000000000"];

/// Somebody who has the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortHolder {
    /// The supervisor of another system.
    System {
        process: u32,
        data_dir: PathBuf,
    },
    Program {
        process: u32,
        name: String,
    },
    /// A process of another user or another process namespace.
    Unseen,
}

impl PortHolder {
    /// Who listens on the port, on 127.0.0.1 or on every address.
    pub fn find(port: u16) -> Self {
        let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|table| listeners(&fs::read_to_string(table).unwrap_or_default(), port))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for process in processes {
            let open = open_files(process);
            if open.iter().any(|file| sockets.iter().any(|socket| file.as_os_str() == socket.as_str())) {
                return described(process, &open);
            }
        }
        PortHolder::Unseen
    }
}

fn described(process: u32, open: &[PathBuf]) -> PortHolder {
    // A supervisor holds its data directory's lock open.
    let locks = open.iter().filter(|file| file.file_name().is_some_and(|name| name == super::data_dir::LOCK));
    let mut dirs = locks.filter_map(|lock| lock.parent()).filter(|dir| super::DataDir::is_one(dir));
    if let Some(dir) = dirs.next() {
        return PortHolder::System { process, data_dir: dir.to_owned() };
    }
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    PortHolder::Program { process, name: name.trim_end().to_owned() }
}

fn open_files(process: u32) -> Vec<PathBuf> {
    let links = fs::read_dir(Path::new("/proc").join(process.to_string()).join("fd"));
    links.into_iter().flatten().flatten().filter_map(|link| fs::read_link(link.path()).ok()).collect()
}

/// The inodes of listening sockets on the port, from the text of `/proc/net/tcp` (proc(5)).
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else { continue };
        let Some((address, number)) = local.rsplit_once(':') else { continue };
        let same = u16::from_str_radix(number, 16) == Ok(port) && ADDRESSES.contains(&address);
        if *state == LISTEN && same {
            found.push((*inode).to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_who_listens_is_named_and_connections_to_it_are_not_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let PortHolder::Program { process, name } = PortHolder::find(port) else { panic!("not found") };
        let ours = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!((process, name.as_str()), (std::process::id(), ours.trim_end()));
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:192B 0100007F:AAAA 01 0:0 0:0 0 0 0 77 1\n   1: 00000000:192B 00000000:0000 0A 0:0 0:0 0 0 0 78 1\n";
        assert_eq!(listeners(table, 6443), ["78"]);
    }
}
