//! One who calls a listener, from its first byte to the end of its handshake.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::deadline::Deadline;
use crate::facts::Facts;
use crate::listener::lock;
use crate::message::is_plain;
use crate::road::{Handshake, Road};
use crate::secret::Secret;
use crate::session::{Agreed, Binding, Refusal, Session};
use crate::trust::nonce;

/// On what terms callers are met.
pub(crate) struct Terms<'a> {
    pub(crate) secret: &'a Secret,
    pub(crate) facts: &'a Mutex<Facts>,
    pub(crate) reply: &'a Mutex<Arc<[u8]>>,
    /// If TLS is on.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<&'a crate::tls::Acceptor>,
}

impl Terms<'_> {
    fn session(&self, binding: Option<Binding>) -> io::Result<Handshake> {
        let (facts, reply) = (lock(self.facts).clone(), lock(self.reply).clone());
        let session = Session::accept(self.secret, &facts, reply, nonce()?, binding);
        Ok(Handshake::new(session.expect("the reply's length was checked when it was set")))
    }
}

/// How far it has come.
enum Stage {
    /// It has said nothing yet.
    Silent(TcpStream),
    #[cfg(feature = "tls")]
    OpeningTls(Box<crate::tls::Stream>),
    ShakingHands(Road, Box<Handshake>),
    /// It has been told why not.
    Refused,
}

pub(crate) struct Caller {
    stage: Stage,
    pub(crate) from: SocketAddr,
    pub(crate) deadline: Deadline,
}

impl Caller {
    pub(crate) fn new(socket: TcpStream, from: SocketAddr, deadline: Deadline) -> Caller {
        Caller { stage: Stage::Silent(socket), from, deadline }
    }

    /// How much it has shown; see [`Session::shown`].
    pub(crate) fn shown(&self) -> u8 {
        match &self.stage {
            Stage::ShakingHands(_, handshake) => handshake.shown(),
            _ => 0,
        }
    }

    /// Goes on as far as what has come allows.
    ///
    /// # Errors
    /// `WouldBlock` where the caller is to be waited for.
    pub(crate) fn advance(&mut self, terms: &Terms<'_>) -> io::Result<Result<Agreed, Refusal>> {
        loop {
            self.stage = match &mut self.stage {
                Stage::ShakingHands(road, handshake) => return handshake.advance(road),
                Stage::Refused => return Err(io::ErrorKind::UnexpectedEof.into()),
                #[cfg(feature = "tls")]
                Stage::OpeningTls(stream) => {
                    let binding = stream.handshake()?;
                    let Stage::OpeningTls(stream) = std::mem::replace(&mut self.stage, Stage::Refused) else {
                        unreachable!("the stage was looked at a moment ago")
                    };
                    Stage::ShakingHands(Road::Tls(stream), Box::new(terms.session(Some(binding))?))
                }
                Stage::Silent(socket) => {
                    // Looked at and left where it is: a scanner that says nothing is given no memory.
                    let mut first = [0];
                    if socket.peek(&mut first)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let Stage::Silent(socket) = std::mem::replace(&mut self.stage, Stage::Refused) else {
                        unreachable!("the stage was looked at a moment ago")
                    };
                    match terms.open(socket, first[0])? {
                        Ok(stage) => stage,
                        Err(refusal) => return Ok(Err(refusal)),
                    }
                }
            };
        }
    }

    /// The way to it, after the handshake.
    pub(crate) fn into_road(self) -> Option<Road> {
        match self.stage {
            Stage::ShakingHands(road, _) => Some(road),
            _ => None,
        }
    }
}

impl Terms<'_> {
    /// The caller has begun to speak: in what language? Its first byte tells, before anything is set up for it.
    fn open(&self, socket: TcpStream, first: u8) -> io::Result<Result<Stage, Refusal>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            return match first {
                crate::tls::FIRST_BYTE => Ok(Ok(Stage::OpeningTls(Box::new(tls.accept(socket)?)))),
                first if is_plain(first) => Ok(Err(told_of_tls(socket))),
                _ => Ok(Err(Refusal::NotOurProtocol)),
            };
        }
        if !is_plain(first) {
            return Ok(Err(Refusal::NotOurProtocol));
        }
        Ok(Ok(Stage::ShakingHands(Road::Plain(socket), Box::new(self.session(None)?))))
    }
}

/// One of ours without TLS is told that it is expected.
#[cfg(feature = "tls")]
fn told_of_tls(mut socket: TcpStream) -> Refusal {
    use std::io::{Read as _, Write as _};
    // What it sent is read first: a socket closed over unread bytes takes back what was said.
    let _ = socket.read(&mut [0; 256]);
    let _ = socket.write(&crate::message::tls_expected());
    Refusal::TlsExpected
}
