//! A sink for tests that wait for rows: each is told of when it is written, not when its epoch is committed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{Guarantee, Sink, SinkError, SinkWriter};

/// Tells at once of every row that is written.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Mutex<Sender<u64>>>);

pub(crate) fn arrivals() -> (Arrivals, Receiver<u64>) {
    let (sender, receiver) = channel();
    (Arrivals(Arc::new(Mutex::new(sender))), receiver)
}

impl Sink<u64> for Arrivals {
    type Writer = Arrivals;

    fn open(&self, _shard: u32, _shards: u32) -> Result<Arrivals, SinkError> {
        Ok(self.clone())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn describe(&self) -> String {
        "arrivals".to_owned()
    }
}

impl SinkWriter<u64> for Arrivals {
    fn write(&mut self, row: &u64) -> Result<(), SinkError> {
        self.0.lock().unwrap().send(*row).unwrap();
        Ok(())
    }

    fn prepare(&mut self, _epoch: Epoch) -> SinkFuture<Committable> {
        Box::pin(async { Ok(Committable::Null) })
    }

    fn commit(&mut self, _committable: Committable) -> SinkFuture<()> {
        Box::pin(async { Ok(()) })
    }

    fn recover(&mut self, _committables: Vec<Committable>) -> SinkFuture<()> {
        Box::pin(async { Ok(()) })
    }
}
