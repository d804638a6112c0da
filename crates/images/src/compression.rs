//! Reading plain, gzip and zstd streams alike, told by their first bytes: media types and file names are often wrong.
//!
//! Not responsible for what is inside.

use std::io::{self, BufReader, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The stream, decompressed if it is compressed.
pub(crate) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut head)?;
    // A zstd stream may begin with a frame to skip (RFC 8878, 3.1.2).
    let skipped = matches!(head[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    let (gzip, zstd) = (head.starts_with(GZIP), head == ZSTD || skipped);
    let whole = BufReader::with_capacity(128 * 1024, io::Cursor::new(head).chain(reader));
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        (_, true) => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompress(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn each_form_gives_the_same() {
        let text = b"a text".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text).unwrap();
        assert_eq!(read(&gzip.finish().unwrap()), text);
        let frame = zstd::encode_all(&text[..], 1).unwrap();
        assert_eq!(read(&frame), text);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7][..], &frame].concat();
        assert_eq!(read(&skipped), text);
        assert_eq!(read(&text), text);
        assert_eq!(read(b""), b"");
    }
}
