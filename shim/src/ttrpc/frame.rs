//! Frames and the two messages in them. A frame: length (4 bytes), stream (4), kind (1), flags (1), all big-endian.

use protobuf::rt::WireType;
use protobuf::{CodedInputStream, CodedOutputStream};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Code, Error};

/// What a frame may carry at most, on either side.
pub const LIMIT: usize = 4 << 20;
pub const HEADER: usize = 10;

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: usize,
    pub stream: u32,
    pub kind: u8,
    pub flags: u8,
}

impl Header {
    pub fn parse(bytes: [u8; HEADER]) -> Header {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Header { length: word(0) as usize, stream: word(4), kind: bytes[8], flags: bytes[9] }
    }
}

/// A whole frame, ready to be written.
pub fn encode(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, 0]);
    frame.extend_from_slice(payload);
    frame
}

/// Reads one frame. `Ok(Err(header))` is a frame over the limit, whose payload has been read and thrown away.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Result<(Header, Vec<u8>), Header>> {
    let mut bytes = [0u8; HEADER];
    from.read_exact(&mut bytes).await?;
    let header = Header::parse(bytes);
    if header.length > LIMIT {
        let mut left = header.length;
        let mut waste = [0u8; 4096];
        while left > 0 {
            let chunk = left.min(waste.len());
            left -= from.read_exact(&mut waste[..chunk]).await?;
        }
        return Ok(Err(header));
    }
    let mut payload = vec![0u8; header.length];
    from.read_exact(&mut payload).await?;
    Ok(Ok((header, payload)))
}

/// `ttrpc.Request`; metadata is read over, only tracing uses it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub service: String,
    pub method: String,
    pub payload: Vec<u8>,
    /// 0 means none.
    pub timeout_nanos: i64,
}

impl Request {
    pub fn decode(bytes: &[u8]) -> protobuf::Result<Request> {
        let mut request = Request::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                10 => request.service = input.read_string()?,
                18 => request.method = input.read_string()?,
                26 => request.payload = input.read_bytes()?,
                32 => request.timeout_nanos = input.read_int64()?,
                other => protobuf::rt::skip_field_for_tag(other, &mut input)?,
            }
        }
        Ok(request)
    }

    pub fn encode(&self) -> protobuf::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.service.len() + self.method.len() + self.payload.len() + 32);
        let mut output = CodedOutputStream::vec(&mut bytes);
        output.write_string(1, &self.service)?;
        output.write_string(2, &self.method)?;
        output.write_bytes(3, &self.payload)?;
        output.write_int64(4, self.timeout_nanos)?;
        output.flush()?;
        drop(output);
        Ok(bytes)
    }
}

/// `google.rpc.Status` without details.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: i32,
    pub message: String,
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        let (code, message) = error.wire();
        Status { code: code as i32, message }
    }
}

impl Status {
    /// A status of the transport itself, whose message Go's servers leave without the class.
    pub fn bare(code: Code, message: String) -> Self {
        Status { code: code as i32, message }
    }
}

/// `ttrpc.Response`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: Option<Status>,
    pub payload: Vec<u8>,
}

impl Response {
    pub fn encode(&self) -> protobuf::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.payload.len() + 64);
        let mut output = CodedOutputStream::vec(&mut bytes);
        if let Some(status) = &self.status {
            let mut inner = Vec::with_capacity(status.message.len() + 16);
            let mut nested = CodedOutputStream::vec(&mut inner);
            nested.write_int32(1, status.code)?;
            nested.write_string(2, &status.message)?;
            nested.flush()?;
            drop(nested);
            output.write_tag(1, WireType::LengthDelimited)?;
            output.write_bytes_no_tag(&inner)?;
        }
        if !self.payload.is_empty() {
            output.write_bytes(2, &self.payload)?;
        }
        output.flush()?;
        drop(output);
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> protobuf::Result<Response> {
        let mut response = Response::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                10 => response.status = Some(Self::status(&input.read_bytes()?)?),
                18 => response.payload = input.read_bytes()?,
                other => protobuf::rt::skip_field_for_tag(other, &mut input)?,
            }
        }
        Ok(response)
    }

    fn status(bytes: &[u8]) -> protobuf::Result<Status> {
        let mut status = Status::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                8 => status.code = input.read_int32()?,
                18 => status.message = input.read_string()?,
                other => protobuf::rt::skip_field_for_tag(other, &mut input)?,
            }
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let request = Request {
            service: "s".into(),
            method: "M".into(),
            payload: vec![1, 2, 3],
            timeout_nanos: 7_000_000_000,
        };
        assert_eq!(Request::decode(&request.encode().unwrap()).unwrap(), request);
        let response = Response { status: Some(Status { code: 5, message: "gone".into() }), payload: vec![] };
        assert_eq!(Response::decode(&response.encode().unwrap()).unwrap(), response);
        assert!(Request::decode(&[10, 200]).is_err());
    }

    #[test]
    fn metadata_is_read_over() {
        let mut bytes = Request { service: "s".into(), ..Request::default() }.encode().unwrap();
        bytes.extend_from_slice(&[42, 6, 10, 1, b'k', 18, 1, b'v']);
        assert_eq!(Request::decode(&bytes).unwrap().service, "s");
    }

    #[test]
    fn header_is_big_endian() {
        let frame = encode(3, REQUEST, b"ab");
        let header = Header::parse(frame[..HEADER].try_into().unwrap());
        assert_eq!(header, Header { length: 2, stream: 3, kind: REQUEST, flags: 0 });
    }
}
