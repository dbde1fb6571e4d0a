//! Compressed request bodies: `Content-Encoding` of a body that the gateway reads (RFC 9110 §8.4).
//!
//! The size of the result is bounded while it is decoded, and so are the windows of the decoders: a compression bomb of a few
//! bytes costs no more than a body of the largest size that is accepted.

use std::io::{self, Read};

use bytes::Bytes;
use http::{HeaderMap, header};

/// The codings that are decoded, as a 415 names them in `Accept-Encoding` (RFC 9110 §15.5.16).
pub const SUPPORTED: &str = "gzip, deflate, br, zstd";

/// The largest window of zstd, as a power of two: 8 MiB, which is the most that this coding may need (RFC 9659).
const ZSTD_WINDOW: u32 = 23;

/// Bytes that are decoded at a time.
const PIECE: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`, also under its older name `x-gzip`.
    Gzip,
    /// `deflate`: zlib's format, or the raw deflate data inside of it, which some clients send.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// A coding that is not decoded: an unknown one, or several on top of each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsupported;

/// Why a body could not be decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// The decoded body is larger than it may be.
    TooLarge,
    /// The body is not in the form that its header says.
    Invalid,
}

impl Coding {
    /// How a request's body is compressed; `None` for an uncompressed one.
    ///
    /// # Errors
    /// The coding is not supported.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Unsupported> {
        let mut found = None;
        for line in headers.get_all(header::CONTENT_ENCODING) {
            for word in line.to_str().map_err(|_| Unsupported)?.split(',').map(str::trim) {
                let coding = match word.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
                    "zstd" => Self::Zstd,
                    _ => return Err(Unsupported),
                };
                if found.replace(coding).is_some() {
                    return Err(Unsupported);
                }
            }
        }
        Ok(found)
    }

    /// The coding's name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// The whole body, decoded. Takes time in proportion to its size: not for an async worker.
    ///
    /// # Errors
    /// The decoded body has more than `limit` bytes, or the body is incomplete or malformed.
    pub fn decode(self, body: &[u8], limit: usize) -> Result<Bytes, Broken> {
        let invalid = |_: io::Error| Broken::Invalid;
        match self {
            Self::Gzip => collect(flate2::read::MultiGzDecoder::new(body), limit),
            Self::Deflate if is_zlib(body) => collect(flate2::read::ZlibDecoder::new(body), limit),
            Self::Deflate => collect(flate2::read::DeflateDecoder::new(body), limit),
            Self::Brotli => collect(brotli_decompressor::Decompressor::new(body, PIECE), limit),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(invalid)?;
                decoder.window_log_max(ZSTD_WINDOW).map_err(invalid)?;
                collect(decoder, limit)
            }
        }
    }
}

/// RFC 1950 §2.2: the method, and a check of the first two bytes.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..]
        if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)).is_multiple_of(31))
}

fn collect(mut decoder: impl Read, limit: usize) -> Result<Bytes, Broken> {
    let mut whole = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return Ok(whole.into()),
            Ok(read) if whole.len() + read > limit => return Err(Broken::TooLarge),
            Ok(read) => whole.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Broken::Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http::HeaderValue;

    use super::*;

    const TEXT: &[u8] = br#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi hi hi hi hi hi hi hi"}]}"#;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(text: &[u8]) -> Vec<u8> {
        // One meta-block that is not compressed, and an empty last one (RFC 7932 §9).
        let length = text.len() - 1;
        let bits = (length as u64) << 4 | 1 << 20;
        let mut out = bits.to_le_bytes()[..3].to_vec();
        out.extend_from_slice(text);
        out.push(0b11);
        out
    }

    fn of(values: &[&'static str]) -> Result<Option<Coding>, Unsupported> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::of(&headers)
    }

    #[test]
    fn a_header_names_one_coding_or_is_refused() {
        for (values, wanted) in [
            (&[][..], None),
            (&[""], None),
            (&["identity"], None),
            (&["identity, GZIP"], Some(Coding::Gzip)),
            (&["x-gzip"], Some(Coding::Gzip)),
            (&["deflate"], Some(Coding::Deflate)),
            (&["br"], Some(Coding::Brotli)),
            (&[" zstd "], Some(Coding::Zstd)),
        ] {
            assert_eq!(of(values), Ok(wanted), "{values:?}");
        }
        for values in [&["gzip, br"][..], &["gzip", "gzip"], &["compress"], &["gzip;q=1"], &["aws-chunked"]] {
            assert_eq!(of(values), Err(Unsupported), "{values:?}");
        }
    }

    #[test]
    fn each_coding_is_read_whole_or_not_at_all() {
        let encoded = [
            (Coding::Gzip, gzip(TEXT)),
            (Coding::Deflate, zlib(TEXT)),
            (Coding::Deflate, zlib(TEXT)[2..zlib(TEXT).len() - 4].to_vec()),
            (Coding::Brotli, brotli(TEXT)),
            (Coding::Zstd, zstd::encode_all(TEXT, 3).unwrap()),
        ];
        for (coding, body) in &encoded {
            assert_eq!(coding.decode(body, TEXT.len()).as_deref(), Ok(TEXT), "{coding:?}");
            assert_eq!(coding.decode(body, TEXT.len() - 1), Err(Broken::TooLarge), "{coding:?}");
            assert_eq!(coding.decode(&body[..body.len() - 9], 1 << 20), Err(Broken::Invalid), "{coding:?} cut off");
        }
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
            assert_eq!(coding.decode(TEXT, 1 << 20), Err(Broken::Invalid), "{coding:?} of what is not compressed");
        }
        // As RFC 1952 §2.2 and RFC 8878 §3.1 have it, several of them in a row are one.
        let twice = [gzip(&TEXT[..10]), gzip(&TEXT[10..])].concat();
        assert_eq!(Coding::Gzip.decode(&twice, 1 << 20).as_deref(), Ok(TEXT));
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        let zeros = vec![0; 64 << 20];
        for (coding, bomb) in [(Coding::Gzip, gzip(&zeros)), (Coding::Zstd, zstd::encode_all(&zeros[..], 19).unwrap())]
        {
            assert!(bomb.len() < 1 << 18);
            assert_eq!(coding.decode(&bomb, 1 << 20), Err(Broken::TooLarge), "{coding:?}");
        }
        // A frame that asks for a window of 128 MiB gets none: magic number, no size, the window, an empty last block.
        let greedy = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 1, 0, 0];
        assert_eq!(Coding::Zstd.decode(&greedy, 1 << 20), Err(Broken::Invalid));
        let modest = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3, 1, 0, 0];
        assert_eq!(Coding::Zstd.decode(&modest, 1 << 20).as_deref(), Ok(&[][..]));
    }
}
