//! Bodies in and out: reading a bounded one, answering with bytes or with a stream.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

use api::status::Status;

use crate::registry::Answer;

/// What a request may carry at most (apiserver's default MaxRequestBodyBytes).
pub const LIMIT: usize = 3 * 1024 * 1024;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer, and of requests once they are inside.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is flushed piece by piece.
pub fn stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Any foreign body as ours.
pub fn incoming<B>(body: B) -> Body
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    body.map_frame(|frame| {
        frame.map_data(|mut data| {
            let all = bytes::Buf::remaining(&data);
            bytes::Buf::copy_to_bytes(&mut data, all)
        })
    })
    .map_err(Into::into)
    .boxed_unsync()
}

/// Reads a request's body, up to `LIMIT`.
pub async fn read(mut body: Body) -> Answer<Bytes> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Box::new(Status::bad_request(format!("reading the request body: {error}"))))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > LIMIT {
            return Err(Box::new(Status::request_entity_too_large(&format!("limit is {LIMIT}"))));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}
