//! Answer bodies as a script of what is sent and when.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::Notify;

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One step of a scripted body.
#[derive(Debug)]
pub(super) enum Step {
    /// Send these bytes as a chunk of their own.
    Send(Bytes),
    /// Let this time pass.
    Wait(Duration),
    /// Reset the connection.
    Reset,
    /// Never do anything again.
    Hang,
}

/// A body known as a whole.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that plays `steps` and ends after the last.
///
/// It lives and dies with its connection, so a client that leaves ends a hang.
pub(super) fn scripted(steps: Vec<Step>, reset: Arc<Notify>) -> Body {
    let frames = stream::unfold((steps.into_iter(), reset), |(mut steps, reset)| async move {
        loop {
            match steps.next()? {
                Step::Send(bytes) => return Some((Ok(Frame::data(bytes)), (steps, reset))),
                Step::Wait(time) if time.is_zero() => {}
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Reset => {
                    reset.notify_one();
                    pending::<()>().await;
                }
                Step::Hang => pending().await,
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}
