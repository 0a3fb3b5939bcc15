//! The file format of source segments: coded packets with their timestamps, exactly as the source has them.
//! The coordinator writes these files and the workers' media children read them.
//!
//! Containers round timestamps (Matroska to milliseconds), refuse negative ones (NUT) or shift them (MP4),
//! and a demuxer may repair what it reads. Segments are decoded by this program only, so that the format is a
//! plain list:
//!
//! ```text
//! "LFSEGM01" | u8 codec (1 H.264, 2 HEVC) | u8 reorder | u32 n | n bytes of extradata
//! packet:      u8 flags (bit 0: set; bit 1: shown; bit 2: keyframe) | i64 pts | u32 n | n bytes
//! end:         u8 0 | u32 n | n entries: i64 pts, u64 offset | u64 offset of the end | "LFSEGEND"
//! ```
//! Integers are little-endian, offsets count from the start of the file. An entry names a packet at which
//! decoding may start: every picture that is shown from there on is at or after its `pts`, and every picture
//! before is earlier.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::VideoCodec;

const MAGIC: &[u8; 8] = b"LFSEGM01";
const END_MAGIC: &[u8; 8] = b"LFSEGEND";
const IS_PACKET: u8 = 1;
const IS_SHOWN: u8 = 2;
const IS_KEY: u8 = 4;
/// Upper bound of a length field, far above any coded picture, so that a damaged length does not allocate
/// much memory.
const MAX_BYTES: u32 = 256 << 20;

/// The header that a decoder needs before the first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamHeader {
    pub(super) codec: VideoCodec,
    /// Number of pictures that the decoder holds to bring them into output order, as the demuxer found it.
    pub(super) reorder: u8,
    pub(super) extradata: Vec<u8>,
}

/// One coded packet as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodedPacket {
    /// PTS of the picture, or `None` if the packet is decoded but not shown.
    pub(super) pts: Option<i64>,
    pub(super) key: bool,
    pub(super) data: Vec<u8>,
}

/// Writes the packets of one segment into a new file.
pub(super) struct PacketWriter {
    file: BufWriter<File>,
    offset: u64,
    entries: Vec<(i64, u64)>,
}

impl PacketWriter {
    pub(super) fn create(path: &Path, header: &StreamHeader) -> io::Result<Self> {
        let mut writer = Self {
            file: BufWriter::new(File::create(path)?),
            offset: 0,
            entries: Vec::new(),
        };
        let codec = match header.codec {
            VideoCodec::H264 => 1,
            VideoCodec::Hevc => 2,
        };
        writer.put(MAGIC)?;
        writer.put(&[codec, header.reorder])?;
        writer.put_sized(&header.extradata)?;
        Ok(writer)
    }

    /// Records that decoding may start at the next packet; `pts` is the earliest that is shown from there on.
    pub(super) fn entry(&mut self, pts: i64) {
        self.entries.push((pts, self.offset));
    }

    pub(super) fn packet(&mut self, pts: Option<i64>, key: bool, data: &[u8]) -> io::Result<()> {
        let shown = if pts.is_some() { IS_SHOWN } else { 0 };
        let key = if key { IS_KEY } else { 0 };
        self.put(&[IS_PACKET | shown | key])?;
        self.put(&pts.unwrap_or(0).to_le_bytes())?;
        self.put_sized(data)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        let end = self.offset;
        self.put(&[0])?;
        let entries = std::mem::take(&mut self.entries);
        let count = u32::try_from(entries.len()).map_err(io::Error::other)?;
        self.put(&count.to_le_bytes())?;
        for (pts, offset) in entries {
            self.put(&pts.to_le_bytes())?;
            self.put(&offset.to_le_bytes())?;
        }
        self.put(&end.to_le_bytes())?;
        self.put(END_MAGIC)?;
        self.file.flush()
    }

    fn put_sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|&length| length <= MAX_BYTES);
        let length = length.ok_or_else(|| io::Error::other("packet of more than 256 MiB"))?;
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Reads the packets of one segment file, from any entry on.
pub(super) struct PacketReader {
    file: BufReader<File>,
    header: StreamHeader,
    entries: Vec<(i64, u64)>,
    first: u64,
}

impl PacketReader {
    /// Opens a segment file at its first packet. Fails with `InvalidData` or `UnexpectedEof` if the file is
    /// not a complete segment.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        if &array::<8>(&mut file)? != MAGIC {
            return Err(damaged("not a segment file"));
        }
        let [codec, reorder] = array(&mut file)?;
        let codec = match codec {
            1 => VideoCodec::H264,
            2 => VideoCodec::Hevc,
            _ => return Err(damaged("segment file of an unknown codec")),
        };
        let extradata = sized(&mut file)?;
        let first = file.stream_position()?;

        file.seek(SeekFrom::End(-16))?;
        let end = u64::from_le_bytes(array(&mut file)?);
        if &array::<8>(&mut file)? != END_MAGIC {
            return Err(damaged("segment file is truncated"));
        }
        file.seek(SeekFrom::Start(end))?;
        if array::<1>(&mut file)? != [0] {
            return Err(damaged("segment file has a broken end"));
        }
        let count = u32::from_le_bytes(array(&mut file)?);
        let mut entries = Vec::new();
        for _ in 0..count {
            let pts = i64::from_le_bytes(array(&mut file)?);
            entries.push((pts, u64::from_le_bytes(array(&mut file)?)));
        }
        file.seek(SeekFrom::Start(first))?;
        let header = StreamHeader {
            codec,
            reorder,
            extradata,
        };
        Ok(Self {
            file,
            header,
            entries,
            first,
        })
    }

    pub(super) fn header(&self) -> &StreamHeader {
        &self.header
    }

    /// Moves to the last packet from which decoding yields the picture at `pts`.
    pub(super) fn seek(&mut self, pts: i64) -> io::Result<()> {
        let at = self.entries.partition_point(|&(entry, _)| entry <= pts);
        let offset = at.checked_sub(1).map_or(self.first, |at| self.entries[at].1);
        self.file.seek(SeekFrom::Start(offset)).map(|_| ())
    }

    /// Reads the next packet, or returns `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<CodedPacket>> {
        let [flags] = array(&mut self.file)?;
        if flags & IS_PACKET == 0 {
            return Ok(None);
        }
        let pts = i64::from_le_bytes(array(&mut self.file)?);
        Ok(Some(CodedPacket {
            pts: (flags & IS_SHOWN != 0).then_some(pts),
            key: flags & IS_KEY != 0,
            data: sized(&mut self.file)?,
        }))
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn sized(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u32::from_le_bytes(array(reader)?);
    if length > MAX_BYTES {
        return Err(damaged("segment file has a broken length"));
    }
    let mut bytes = Vec::new();
    reader.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == u64::from(length) {
        Ok(bytes)
    } else {
        Err(damaged("segment file is truncated"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(path: &Path) {
        let header = StreamHeader {
            codec: VideoCodec::Hevc,
            reorder: 2,
            extradata: vec![1, 2, 3],
        };
        let mut writer = PacketWriter::create(path, &header).unwrap();
        writer.entry(-7);
        writer.packet(Some(-7), true, b"key").unwrap();
        writer.packet(None, false, b"").unwrap();
        writer.entry(90_000);
        writer.packet(Some(90_000), true, b"later").unwrap();
        writer.finish().unwrap();
        assert_eq!(PacketReader::open(path).unwrap().header(), &header);
    }

    #[test]
    fn packets_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        sample(&path);
        let mut reader = PacketReader::open(&path).unwrap();
        let first = reader.next().unwrap().unwrap();
        assert_eq!(
            (first.pts, first.key, &first.data[..]),
            (Some(-7), true, &b"key"[..])
        );
        let hidden = reader.next().unwrap().unwrap();
        assert_eq!((hidden.pts, hidden.key), (None, false));
        assert_eq!(reader.next().unwrap().unwrap().data, b"later");
        assert_eq!(reader.next().unwrap(), None);
        for (wanted, found) in [(i64::MIN, -7), (89_999, -7), (90_000, 90_000), (i64::MAX, 90_000)] {
            reader.seek(wanted).unwrap();
            assert_eq!(
                reader.next().unwrap().unwrap().pts,
                Some(found),
                "wanted {wanted}"
            );
        }
    }

    #[test]
    fn cut_off_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        sample(&path);
        let whole = std::fs::read(&path).unwrap();
        for keep in 0..whole.len() {
            std::fs::write(&path, &whole[..keep]).unwrap();
            assert!(PacketReader::open(&path).is_err(), "{keep} bytes");
        }
    }
}
