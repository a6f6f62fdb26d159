//! What a handshake goes through: a socket, or TLS over a socket. And how it is driven over one that never blocks.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::session::{Agreed, Refusal, Session, Step};
#[cfg(feature = "tls")]
use crate::tls;

/// A socket that does not block, plain or inside TLS.
pub(crate) enum Road {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Stream>),
}

impl Road {
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Road::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.socket(),
        }
    }
}

impl Read for Road {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Road::Plain(socket) => socket.read(bytes),
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Road {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Road::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Road::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.flush(),
        }
    }
}

/// A session on its road, and what of its last message is not sent yet.
pub(crate) struct Handshake {
    session: Session,
    outgoing: Vec<u8>,
    sent: usize,
}

impl Handshake {
    pub(crate) fn new(session: Session) -> Handshake {
        Handshake { session, outgoing: Vec::new(), sent: 0 }
    }

    /// How much the other end has shown of itself; see [`Session::shown`].
    pub(crate) fn shown(&self) -> u8 {
        self.session.shown()
    }

    /// Goes on as far as the road allows.
    ///
    /// # Errors
    /// `WouldBlock` when the other end is to be waited for, `UnexpectedEof` when it has closed; others as they come.
    pub(crate) fn advance(&mut self, road: &mut (impl Read + Write)) -> io::Result<Result<Agreed, Refusal>> {
        let mut incoming = [0; 4096];
        loop {
            while self.sent < self.outgoing.len() {
                match road.write(&self.outgoing[self.sent..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => self.sent += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            road.flush()?;
            match self.session.step() {
                Step::Send(bytes) => (self.outgoing, self.sent) = (bytes, 0),
                Step::Done(agreed) => return Ok(Ok(agreed)),
                Step::Refused(refusal) => return Ok(Err(refusal)),
                Step::NeedMore => {
                    // No more than belongs to the handshake: what comes behind it is somebody else's.
                    let wants = self.session.wants().min(incoming.len());
                    match road.read(&mut incoming[..wants]) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(bytes) => {
                            self.session.receive(&incoming[..bytes]);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::facts::Facts;
    use crate::secret::Secret;

    type Pipe = Rc<RefCell<VecDeque<u8>>>;

    /// A socket that gives and takes what the script says, a few bytes at a time, and mostly is not ready.
    struct Reluctant {
        comes: Pipe,
        goes: Pipe,
        script: VecDeque<usize>,
    }

    impl Reluctant {
        fn ready(&mut self) -> io::Result<usize> {
            let some = self.script.pop_front().expect("the script is long enough");
            self.script.push_back(some);
            if some == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(some) }
        }
    }

    impl Read for Reluctant {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let some = self.ready()?.min(bytes.len()).min(self.comes.borrow().len());
            if some == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut comes = self.comes.borrow_mut();
            comes.drain(..some).zip(bytes).for_each(|(byte, place)| *place = byte);
            Ok(some)
        }
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let some = self.ready()?.min(bytes.len());
            self.goes.borrow_mut().extend(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        /// What comes behind the handshake is there from its first byte.
        #[test]
        fn however_reluctant_the_road_both_ends_agree_and_nothing_behind_is_read(
            mut script in proptest::collection::vec(0_usize..50, 1..20), behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            script.push(3); // or nothing would ever move
            let (secret, facts) = (Secret::random().unwrap(), Facts::new().with("job", "clicks"));
            let [there, back] = [Pipe::default(), Pipe::default()];
            let road = |comes: &Pipe, goes: &Pipe| Reluctant { comes: comes.clone(), goes: goes.clone(), script: script.clone().into() };
            let mut roads = [road(&back, &there), road(&there, &back)];
            let dialler = Session::dial(&secret, &facts, &b"it is me"[..], [1; 32], None).unwrap();
            let acceptor = Session::accept(&secret, &facts, vec![7; 500], [2; 32], None).unwrap();
            let mut handshakes = [dialler, acceptor].map(Handshake::new);
            let mut said = [None, None];
            for turn in 0..20_000 {
                let end = turn % 2;
                if said[end].is_none() {
                    match handshakes[end].advance(&mut roads[end]) {
                        Ok(agreed) => {
                            said[end] = Some(agreed.unwrap().said);
                            roads[end].goes.borrow_mut().extend(&behind);
                        }
                        Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                }
            }
            prop_assert_eq!(said, [Some(vec![7; 500]), Some(b"it is me".to_vec())]);
            prop_assert_eq!(Vec::from(there.take()), behind.clone());
            prop_assert_eq!(Vec::from(back.take()), behind);
        }

        #[test]
        fn a_road_that_ends_ends_the_handshake(cut in 0_usize..44) {
            let secret = Secret::random().unwrap();
            let Step::Send(hello) = Session::dial(&secret, &Facts::new(), &b""[..], [1; 32], None).unwrap().step() else {
                panic!("a dialler begins")
            };
            let mut handshake = Handshake::new(Session::accept(&secret, &Facts::new(), &b""[..], [2; 32], None).unwrap());
            let mut road = io::Cursor::new(hello[..cut].to_vec());
            prop_assert_eq!(handshake.advance(&mut road).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
