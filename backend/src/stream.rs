//! [`ReadInTime`]: a connection that is closed when its client does not read what it is sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Once a client is waited for, it must take as many bytes each time, or all that there are.
const STEP: usize = 64 * 1024;

/// Bounds how long the client may keep an answer waiting: that long for each 64 KiB of it.
pub(crate) struct ReadInTime<S> {
    stream: S,
    time: Duration,
    waiting: Option<Waiting>,
}

struct Waiting {
    until: Pin<Box<Sleep>>,
    /// The bytes that were taken since.
    taken: usize,
}

impl<S> ReadInTime<S> {
    pub(crate) fn new(stream: S, time: Duration) -> Self {
        Self { stream, time, waiting: None }
    }

    /// Looks at what came of a write: one that waits may do so for a while.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                let time = self.time;
                let waiting =
                    self.waiting.get_or_insert_with(|| Waiting { until: Box::pin(sleep(time)), taken: 0 });
                match waiting.until.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
            Poll::Ready(Ok(bytes)) => {
                if let Some(waiting) = &mut self.waiting {
                    waiting.taken += bytes;
                    if waiting.taken >= STEP {
                        waiting.taken = 0;
                        waiting.until.as_mut().reset(Instant::now() + self.time);
                    }
                }
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadInTime<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadInTime<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            // It is called when all was written.
            self.waiting = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    use super::*;

    const TIME: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn who_does_not_read_is_not_waited_for() {
        let (_client, server) = duplex(1024);
        let mut server = ReadInTime::new(server, TIME);
        let written = timeout(LONG, server.write_all(&[0; 4096])).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_reads_a_byte_now_and_then_is_not_waited_for() {
        let (mut client, server) = duplex(1024);
        let mut server = ReadInTime::new(server, TIME);
        let drip = async {
            loop {
                sleep(TIME / 10).await;
                client.read_exact(&mut [0]).await.unwrap();
            }
        };
        let written = async { timeout(LONG, server.write_all(&[0; 1024 * 1024])).await.unwrap() };
        let written = tokio::select! { written = written => written, () = drip => unreachable!() };
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_reads_slowly_gets_a_long_answer() {
        let (mut client, server) = duplex(64 * 1024);
        let mut server = ReadInTime::new(server, TIME);
        let answer = vec![7; 1024 * 1024];
        let write = async {
            server.write_all(&answer).await.unwrap();
            server.flush().await.unwrap();
            // The next answer has its time to itself.
            sleep(2 * TIME).await;
            server.write_all(&answer[..70 * 1024]).await.unwrap();
            server.flush().await.unwrap();
            server.shutdown().await.unwrap();
        };
        let read = async {
            let (mut all, mut part) = (0, vec![0; 64 * 1024]);
            loop {
                sleep(TIME / 4).await;
                match client.read(&mut part).await.unwrap() {
                    0 => return all,
                    read => all += read,
                }
            }
        };
        let ((), read) = timeout(LONG, async { tokio::join!(write, read) }).await.unwrap();
        assert_eq!(read, 1024 * 1024 + 70 * 1024);
    }
}
