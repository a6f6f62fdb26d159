//! One process's line to another: a thread that writes and one that reads, so that neither waits for what the other's
//! owner is at, and a heartbeat when there is nothing to say.

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

/// The end that speaks. The connection is closed when the last one is dropped and everything is written.
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
    spawn_named("millstream-post-out", move || write(sender, &letters, beat)).map_err(machine)?;
    let reader = Reader { receiver, failure_timeout, beat, clock };
    spawn_named("millstream-post-in", move || reader.read(hear)).map_err(machine)?;
    Ok(outbox)
}

/// Writes until nobody can put anything into the outbox any more, or the line is gone; the reader hears of that.
fn write<Out: Serialize>(mut sender: ChannelSender, letters: &Receiver<Out>, beat: Duration) {
    loop {
        let written = match letters.recv_timeout(beat) {
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
