//! One process's line to another: a thread that writes and one that reads, so that neither waits for what the other's
//! owner is at, and a heartbeat when there is nothing to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use millstream_network::{ChannelReceiver, ChannelSender, Connection, Received};
use serde::{Deserialize, Serialize};

use super::wire::{from_bytes, to_bytes};
use crate::run::fault::JobError;
use crate::run::process::spawn_named;
use crate::time::{Clock, Nanos};

/// Heartbeats within the time in which none means failure: one may come late, and one be lost with a process that is
/// paused for a moment.
const BEATS_PER_TIMEOUT: u32 = 6;

/// What comes over a line, and its end.
pub(super) enum Heard<T> {
    Message(T),
    /// Nothing more comes: why.
    Gone(String),
}

/// The end that speaks. The connection is closed when the last one is dropped and everything is written, or when the other
/// end is gone or was silent for too long: one that hears heartbeats would think itself wanted.
pub(super) type Outbox<T> = Sender<T>;

/// Takes a connection over: what is put into the outbox is sent, and `hear` is called with what comes, by a thread of the
/// line's own, until it says that it has heard enough or the line is gone.
pub(super) fn line<Out, In>(
    connection: Connection,
    name: &str,
    failure_timeout: Duration,
    clock: Clock,
    hear: impl FnMut(Heard<In>) -> bool + Send + 'static,
) -> Result<Outbox<Out>, JobError>
where
    Out: Serialize + Send + 'static,
    In: for<'a> Deserialize<'a>,
{
    let machine = |error: std::io::Error| JobError::Machine(format!("the line to {name}: {error}"));
    let (sender, receiver) = connection.into_channel().map_err(machine)?;
    let (outbox, letters) = unbounded();
    let beat = failure_timeout / BEATS_PER_TIMEOUT;
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    spawn_named("millstream-post-out", move || write(sender, &letters, beat, &ended)).map_err(machine)?;
    let reader = Reader { receiver, failure_timeout, beat, clock, over };
    spawn_named("millstream-post-in", move || reader.read(hear)).map_err(machine)?;
    Ok(outbox)
}

/// Writes until nobody can put anything into the outbox any more, or the line is gone; the reader hears of that.
fn write<Out: Serialize>(mut sender: ChannelSender, letters: &Receiver<Out>, beat: Duration, over: &AtomicBool) {
    loop {
        let letter = letters.recv_timeout(beat);
        if over.load(Ordering::Relaxed) {
            return sender.close();
        }
        let written = match letter {
            Ok(letter) => sender.send(&to_bytes(&letter)),
            Err(RecvTimeoutError::Timeout) => sender.heartbeat(),
            Err(RecvTimeoutError::Disconnected) => return sender.close(),
        };
        if written.is_err() {
            // Nobody may be listening on this end of the line any more either.
            return;
        }
    }
}

struct Reader {
    receiver: ChannelReceiver,
    failure_timeout: Duration,
    beat: Duration,
    clock: Clock,
    /// For the writer.
    over: Arc<AtomicBool>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Reader {
    fn read<In: for<'a> Deserialize<'a>>(mut self, mut hear: impl FnMut(Heard<In>) -> bool) {
        let mut last: Nanos = self.clock.now();
        loop {
            let received = self.receiver.receive(self.beat);
            let now = self.clock.now();
            let gone = match received {
                Ok(Received::Message(bytes)) => match from_bytes(&bytes) {
                    Ok(message) => {
                        last = now;
                        if !hear(Heard::Message(message)) {
                            return;
                        }
                        continue;
                    }
                    Err(why) => why,
                },
                Ok(Received::Heartbeat) => {
                    last = now;
                    continue;
                }
                Ok(Received::Nothing) if now.since(last) < self.failure_timeout => continue,
                Ok(Received::Nothing) => format!("nothing was heard for {:?}", self.failure_timeout),
                Err(error) => error.to_string(),
            };
            hear(Heard::Gone(gone));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_network::{ChannelError, Facts, Listener, Trust, dial};

    use super::*;

    /// A process that is continued after a pause must not take the heartbeats of one that has given it up for being wanted.
    #[test]
    fn whoever_is_given_up_hears_of_it() {
        let trust = Trust::of_one_host();
        let listener = Listener::bind("127.0.0.1:0", trust.clone(), Facts::new()).unwrap();
        let address = listener.address().to_string();
        let called = dial(&address, &trust, &Facts::new(), b"", Duration::from_secs(5)).unwrap();
        let accepted = listener.accepted().recv_timeout(Duration::from_secs(5)).unwrap();
        let (tell, told) = unbounded();
        let hear = move |heard: Heard<u32>| match heard {
            Heard::Message(_) => true,
            Heard::Gone(why) => tell.send(why).is_ok(),
        };
        let timeout = Duration::from_millis(120);
        let outbox: Outbox<u32> = line(accepted.connection, "a test", timeout, Clock::system(), hear).unwrap();
        // This end is silent, as one that is paused, and only listens.
        let (_silent, mut receiver) = called.into_channel().unwrap();
        assert!(told.recv_timeout(Duration::from_secs(5)).unwrap().contains("nothing was heard"));
        let end = loop {
            match receiver.receive(Duration::from_secs(5)) {
                Ok(Received::Heartbeat | Received::Message(_)) => {}
                Ok(Received::Nothing) => panic!("neither a heartbeat nor an end for five seconds"),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, ChannelError::Closed | ChannelError::Reset), "{end}");
        drop(outbox);
    }
}
