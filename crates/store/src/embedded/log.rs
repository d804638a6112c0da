//! SQLite's write-ahead log as bytes: whether what looks like its torn end really is one.
//!
//! SQLite reads the log up to the first frame whose checksum is wrong and forgets the rest, which is right after a crash
//! and silently loses acknowledged commits when a frame in the middle was damaged. The two differ: a commit is synced
//! before the next one begins, so behind a torn end there is never a commit *and* something after it. The format:
//! <https://sqlite.org/fileformat2.html#walformat>. Not responsible for replaying the log.

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Its last bit says that checksums are over big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// Where a log is damaged, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the head of its log is unreadable although the log holds commits")]
    Head,
    #[error("frame {0} of its log is unreadable although later commits follow")]
    Frame(usize),
}

/// Refuses a log that lost something other than its last, unfinished commit.
pub fn check(log: &[u8]) -> Result<(), Damage> {
    if log.len() <= HEADER {
        return Ok(());
    }
    let (head, frames) = log.split_at(HEADER);
    let Some(header) = Header::parse(head) else {
        return if frames.iter().any(|b| *b != 0) { Err(Damage::Head) } else { Ok(()) };
    };
    let frames: Vec<&[u8]> = frames.chunks_exact(FRAME_HEADER + header.page).collect();
    let mut sum = header.sum;
    let intact = frames.iter().take_while(|frame| header.extends(&mut sum, frame)).count();
    let ours: Vec<bool> = frames.iter().map(|frame| frame[8..16] == head[16..24]).collect();
    let commits = |index: usize| ours[index] && number(frames[index], 4) != 0;
    let followed = |index: usize| ours.get(index + 1) == Some(&true);
    match (intact..frames.len()).find(|index| commits(*index) && followed(*index)) {
        Some(_) => Err(Damage::Frame(intact + 1)),
        None => Ok(()),
    }
}

struct Header {
    page: usize,
    big_endian: bool,
    salts: [u8; 8],
    sum: (u32, u32),
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Header> {
        let magic = number(bytes, 0);
        let page = usize::try_from(number(bytes, 8)).ok()?;
        let big_endian = magic & 1 == 1;
        let sum = checksum((0, 0), &bytes[..24], big_endian);
        let right = magic & !1 == MAGIC
            && page.is_power_of_two()
            && (512..=65536).contains(&page)
            && sum == (number(bytes, 24), number(bytes, 28));
        let salts = bytes[16..24].try_into().ok()?;
        right.then_some(Header { page, big_endian, salts, sum })
    }

    /// Whether a frame continues the log whose sum so far is `sum`.
    fn extends(&self, sum: &mut (u32, u32), frame: &[u8]) -> bool {
        let head = checksum(*sum, &frame[..8], self.big_endian);
        *sum = checksum(head, &frame[FRAME_HEADER..], self.big_endian);
        frame[8..16] == self.salts && *sum == (number(frame, 16), number(frame, 20))
    }
}

fn checksum((mut first, mut second): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for pair in bytes.chunks_exact(8) {
        first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
        second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
    }
    (first, second)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
