//! The body of an answer: passed through, its end noted, and cut short with a status when the daemon stops.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::call::Call;

pub struct Watched {
    inner: tonic::body::Body,
    stop: CancellationToken,
    /// Made when the answer first has to wait: most never do.
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    call: Call,
    cut: bool,
}

impl Watched {
    pub fn new(inner: tonic::body::Body, stop: CancellationToken, call: Call) -> Self {
        Self { inner, stop, stopped: None, call, cut: false }
    }
}

/// What calls end with that outlive the daemon.
pub fn stopping() -> Status {
    Status::unavailable("the daemon is shutting down")
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.cut {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        this.call.see(trailers);
                    }
                }
                Some(Err(status)) => this.call.end(status.code(), status.message()),
                None => this.call.end(tonic::Code::Ok, ""),
            }
            return Poll::Ready(frame);
        }
        let stop = &this.stop;
        let stopped = this.stopped.get_or_insert_with(|| Box::pin(stop.clone().cancelled_owned()));
        if stopped.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.cut = true;
        let status = stopping();
        this.call.end(status.code(), status.message());
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.cut || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
