//! The handshake: by it two processes prove to each other that they know the secret, and agree on the facts.
//!
//! Pure: bytes go in, bytes come out. It owns no socket and reads no clock; nonces are handed to it.
//!
//! ```text
//!   dialler                                                             acceptor
//!     │ ── hello: nonce ──────────────────────────────────────────────────▶ │
//!     │ ◀─────────────────────────────────────────────── challenge: nonce ── │   key = HMAC(secret, hello, challenge, binding)
//!     │ ── proof: HMAC(key, "dialler") ───────────────────────────────────▶ │   told nothing before this is right
//!     │ ◀──────────────────────────────────── proof: HMAC(key, "acceptor") ── │   tells nothing before this is right
//!     │ ── greeting: facts, greeting, HMAC ───────────────────────────────▶ │   compares the facts
//!     │ ◀──────────────────── welcome: reply, HMAC, or differs: fact, HMAC ── │
//! ```
//!
//! The dialler proves first: who merely connects to a listener learns a random number. Bytes, limits and threats are drawn in
//! `docs/formats/handshake.md`.

use std::collections::VecDeque;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::facts::{FACTS_BYTES_MAX, Facts, put_text, take_text};
use crate::message::{HEADER_BYTES, Kind, MAGIC, Reason, message};
use crate::secret::Secret;

pub use crate::message::VERSION;
pub use crate::refusal::Refusal;

/// Bytes of the longest greeting.
pub const GREETING_BYTES_MAX: usize = 4 << 10;

/// Bytes of the longest reply.
pub const REPLY_BYTES_MAX: usize = 64 << 10;

/// A number that is drawn at random for each handshake, so that no proof is good for another one.
pub type Nonce = [u8; 32];

/// What ties a handshake to the encrypted connection that it goes through: key material that only its two ends can know.
pub type Binding = [u8; 32];

const MAC_BYTES: usize = 32;
/// The greeting's body before its texts: how long the facts are, and how long the greeting is.
const LENGTHS_BYTES: usize = 8;

const GREETING_BODY_MAX: usize = LENGTHS_BYTES + FACTS_BYTES_MAX + GREETING_BYTES_MAX + MAC_BYTES;
/// A difference is a name and a value, each out of facts that have a limit.
const ANSWER_BODY_MAX: usize = REPLY_BYTES_MAX + MAC_BYTES;
const _: () = assert!(8 + FACTS_BYTES_MAX <= REPLY_BYTES_MAX, "a difference is no longer than a reply");

/// What came of a handshake that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// What the other end has said of itself: to an acceptor the dialler's greeting, to a dialler the acceptor's reply.
    pub said: Vec<u8>,
}

/// What a [`Session`] wants done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes, then ask again.
    Send(Vec<u8>),
    /// Receive up to [`Session::wants`] bytes, hand them to [`Session::receive`], then ask again.
    NeedMore,
    /// Everything is sent and both ends agree. What the connection carries from here on is no more the handshake's.
    Done(Agreed),
    /// No agreement. What the other end is to know of it has been sent; close the connection.
    Refused(Refusal),
}

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    // the dialler's
    AwaitChallenge,
    AwaitAcceptorProof,
    AwaitAnswer,
    // the acceptor's
    AwaitHello,
    AwaitDiallerProof,
    AwaitGreeting,
    // both
    Ended,
}

/// One end of one handshake.
///
/// ```
/// use millstream_network::{Facts, Secret, session::{Session, Step}};
/// let (secret, facts) = (Secret::random()?, Facts::new().with("job", "clicks"));
/// let mut dialler = Session::dial(&secret, &facts, &b"worker 3"[..], [1; 32], None)?;
/// let mut acceptor = Session::accept(&secret, &facts, &b"welcome"[..], [2; 32], None)?;
/// let greeting = loop {
///     while let Step::Send(bytes) = dialler.step() { acceptor.receive_all(&bytes); }
///     match acceptor.step() {
///         Step::Send(bytes) => { dialler.receive_all(&bytes); }
///         Step::Done(agreed) => break agreed.said,
///         Step::NeedMore => {}
///         Step::Refused(refusal) => return Err(refusal.into()),
///     }
/// };
/// assert_eq!(greeting, b"worker 3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Session {
    stage: Stage,
    facts: Facts,
    /// The greeting or the reply.
    saying: Arc<[u8]>,
    nonce: Nonce,
    binding: Option<Binding>,
    /// Keyed with the secret until both nonces are known, and with this handshake's own key from then on.
    keyed: Hmac<Sha256>,
    /// The dialler's: what vouched for the greeting. The answer is to that greeting.
    greeting_mac: [u8; MAC_BYTES],
    hello: [u8; HEADER_BYTES + 32],
    header: [u8; HEADER_BYTES],
    header_have: usize,
    /// Empty, and without memory of its own, until a header is believed.
    body: Vec<u8>,
    body_bytes: usize,
    outbox: VecDeque<Vec<u8>>,
    end: Option<Result<Agreed, Refusal>>,
}

impl Session {
    /// The end that called. `greeting` is what it says of itself and of what it wants; it is sent once the other end has proven
    /// to know the secret, and cannot be altered on its way.
    ///
    /// # Errors
    /// If the greeting is longer than [`GREETING_BYTES_MAX`].
    pub fn dial(
        secret: &Secret,
        facts: &Facts,
        greeting: impl Into<Arc<[u8]>>,
        nonce: Nonce,
        binding: Option<Binding>,
    ) -> Result<Session, Refusal> {
        let greeting = greeting.into();
        at_most("greeting", greeting.len(), GREETING_BYTES_MAX)?;
        let mut session = Session::new(Stage::AwaitChallenge, secret, facts, greeting, nonce, binding);
        session.hello.copy_from_slice(&message(Kind::Hello, &[&nonce]));
        session.outbox.push_back(session.hello.to_vec());
        Ok(session)
    }

    /// The end that was called. `reply` is what it says to those it agrees with.
    ///
    /// # Errors
    /// If the reply is longer than [`REPLY_BYTES_MAX`].
    pub fn accept(
        secret: &Secret,
        facts: &Facts,
        reply: impl Into<Arc<[u8]>>,
        nonce: Nonce,
        binding: Option<Binding>,
    ) -> Result<Session, Refusal> {
        let reply = reply.into();
        at_most("reply", reply.len(), REPLY_BYTES_MAX)?;
        Ok(Session::new(Stage::AwaitHello, secret, facts, reply, nonce, binding))
    }

    fn new(
        stage: Stage,
        secret: &Secret,
        facts: &Facts,
        saying: Arc<[u8]>,
        nonce: Nonce,
        binding: Option<Binding>,
    ) -> Session {
        Session {
            stage,
            facts: facts.clone(),
            saying,
            nonce,
            binding,
            keyed: secret.keyed(),
            greeting_mac: [0; MAC_BYTES],
            hello: [0; HEADER_BYTES + 32],
            header: [0; HEADER_BYTES],
            header_have: 0,
            body: Vec::new(),
            body_bytes: 0,
            outbox: VecDeque::new(),
            end: None,
        }
    }

    /// Bytes that belong to the message that is awaited. Who reads no more than these from a socket has read nothing that comes
    /// behind the handshake. 0 once it is over.
    #[must_use]
    pub fn wants(&self) -> usize {
        if self.stage == Stage::Ended {
            0
        } else if self.header_have < HEADER_BYTES {
            HEADER_BYTES - self.header_have
        } else {
            self.body_bytes - self.body.len()
        }
    }

    /// How much the other end has shown: 0 nothing, 1 that it speaks this protocol, 2 that it knows the secret.
    #[must_use]
    pub fn shown(&self) -> u8 {
        match self.stage {
            Stage::AwaitHello | Stage::AwaitChallenge => 0,
            Stage::AwaitDiallerProof | Stage::AwaitAcceptorProof => 1,
            Stage::AwaitGreeting | Stage::AwaitAnswer | Stage::Ended => 2,
        }
    }

    /// Takes bytes that the other end has sent, at most as many as it [`wants`](Self::wants), and says how many it took.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.wants());
        let bytes = &bytes[..taken];
        if taken == 0 {
            return 0;
        }
        let happened = if self.header_have < HEADER_BYTES {
            self.header[self.header_have..][..taken].copy_from_slice(bytes);
            self.header_have += taken;
            self.read_header()
        } else {
            self.body.extend_from_slice(bytes);
            Ok(())
        };
        let happened = happened.and_then(|()| match self.header_have == HEADER_BYTES && self.wants() == 0 {
            true => self.read_message(),
            false => Ok(()),
        });
        if let Err(refusal) = happened {
            self.finish(Err(refusal));
        }
        taken
    }

    /// Takes as many of these bytes as belong to the handshake, and says how many it took.
    pub fn receive_all(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            match self.receive(&bytes[taken..]) {
                0 => return taken,
                more => taken += more,
            }
        }
    }

    /// What to do next. After [`Step::Done`] or [`Step::Refused`] there is nothing more to be asked.
    pub fn step(&mut self) -> Step {
        match (self.outbox.pop_front(), self.end.take()) {
            (Some(bytes), end) => {
                self.end = end;
                Step::Send(bytes)
            }
            (None, Some(Ok(agreed))) => Step::Done(agreed),
            (None, Some(Err(refusal))) => Step::Refused(refusal),
            (None, None) => Step::NeedMore,
        }
    }

    /// Judges as much of a header as there is, so that a stranger is known by its first byte.
    fn read_header(&mut self) -> Result<(), Refusal> {
        let known = self.header_have.min(MAGIC.len());
        if self.header[..known] != MAGIC[..known] {
            return Err(Refusal::NotOurProtocol);
        }
        if self.header_have < HEADER_BYTES {
            return Ok(());
        }
        let [_, _, _, _, v0, v1, kind, zero, b0, b1, b2, b3] = self.header;
        let theirs = u16::from_le_bytes([v0, v1]);
        if theirs != VERSION {
            if self.stage == Stage::AwaitHello {
                self.outbox.push_back(message(Kind::Refused, &[&[Reason::Version as u8]]));
            }
            return Err(Refusal::Version { ours: VERSION, theirs });
        }
        let out_of_order = Refusal::OutOfOrder { kind };
        if zero != 0 {
            return Err(Refusal::NotOurProtocol);
        }
        let kind = Kind::from_byte(kind).ok_or(Refusal::NotOurProtocol)?;
        let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        let (what, bytes_min, bytes_max) = match (self.stage, kind) {
            (Stage::AwaitHello, Kind::Hello) => ("hello", 32, 32),
            (Stage::AwaitChallenge, Kind::Challenge) => ("challenge", 32, 32),
            (Stage::AwaitDiallerProof, Kind::DiallerProof) => ("proof", MAC_BYTES, MAC_BYTES),
            (Stage::AwaitAcceptorProof, Kind::AcceptorProof) => ("proof", MAC_BYTES, MAC_BYTES),
            (Stage::AwaitGreeting, Kind::Greeting) => ("greeting", LENGTHS_BYTES + MAC_BYTES, GREETING_BODY_MAX),
            (Stage::AwaitAnswer, Kind::Welcome | Kind::Differs) => ("answer", MAC_BYTES, ANSWER_BODY_MAX),
            (Stage::AwaitChallenge | Stage::AwaitAcceptorProof, Kind::Refused) => ("refusal", 1, 1),
            _ => return Err(out_of_order),
        };
        at_most(what, bytes, bytes_max)?;
        if bytes < bytes_min {
            return Err(Refusal::NotOurProtocol);
        }
        self.body = Vec::with_capacity(bytes);
        self.body_bytes = bytes;
        Ok(())
    }

    /// A whole message has been received, which its header allows in this place.
    fn read_message(&mut self) -> Result<(), Refusal> {
        let body = std::mem::take(&mut self.body);
        self.header_have = 0;
        self.body_bytes = 0;
        let kind = self.header[6];
        if kind == Kind::Refused as u8 {
            return Err(match body[0] {
                byte if byte == Reason::WrongSecret as u8 => Refusal::WrongSecret,
                byte if byte == Reason::TlsExpected as u8 => Refusal::TlsExpected,
                _ => Refusal::NotOurProtocol,
            });
        }
        match self.stage {
            Stage::AwaitHello => {
                let challenge = message(Kind::Challenge, &[&self.nonce]);
                self.hello.copy_from_slice(&message(Kind::Hello, &[&body]));
                if body == self.nonce {
                    return Err(Refusal::OutOfOrder { kind });
                }
                self.agree_on_key(&challenge);
                self.outbox.push_back(challenge);
                self.stage = Stage::AwaitDiallerProof;
            }
            Stage::AwaitChallenge => {
                if body == self.nonce {
                    return Err(Refusal::OutOfOrder { kind });
                }
                self.agree_on_key(&message(Kind::Challenge, &[&body]));
                self.outbox.push_back(message(Kind::DiallerProof, &[&self.mac(b"dialler knows it", &[])]));
                self.stage = Stage::AwaitAcceptorProof;
            }
            Stage::AwaitDiallerProof => {
                if !self.vouched(b"dialler knows it", &[], &body) {
                    self.outbox.push_back(message(Kind::Refused, &[&[Reason::WrongSecret as u8]]));
                    return Err(Refusal::WrongSecret);
                }
                self.outbox.push_back(message(Kind::AcceptorProof, &[&self.mac(b"acceptor knows..", &[])]));
                self.stage = Stage::AwaitGreeting;
            }
            Stage::AwaitAcceptorProof => {
                if !self.vouched(b"acceptor knows..", &[], &body) {
                    return Err(Refusal::WrongSecret);
                }
                self.greet();
                self.stage = Stage::AwaitAnswer;
            }
            Stage::AwaitGreeting => {
                let greeting = self.read_greeting(&body)?;
                self.finish(greeting);
            }
            Stage::AwaitAnswer => {
                let answer = self.read_answer(&body)?;
                self.finish(answer);
            }
            Stage::Ended => unreachable!("a session that has ended wants no bytes"),
        }
        Ok(())
    }

    /// Both nonces are known: from here on, the key is this handshake's alone.
    fn agree_on_key(&mut self, challenge: &[u8]) {
        let key = match &self.binding {
            None => self.mac(b"key of plain one", &[&self.hello, challenge]),
            Some(binding) => self.mac(b"key inside TLS..", &[&self.hello, challenge, binding]),
        };
        self.keyed = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
    }

    /// What only those who know the secret can compute of these bytes. The label says who speaks, and of what: a proof of one role
    /// is none of the other.
    fn mac(&self, label: &[u8; 16], parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.mac_of(label, parts).finalize().into_bytes().into()
    }

    /// Whether the other end has computed the same; in a time that does not depend on where it differs.
    fn vouched(&self, label: &[u8; 16], parts: &[&[u8]], mac: &[u8]) -> bool {
        self.mac_of(label, parts).verify_slice(mac).is_ok()
    }

    fn mac_of(&self, label: &[u8; 16], parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(label);
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    /// The dialler says who it is, now that it knows to whom.
    fn greet(&mut self) {
        let facts = self.facts.encode();
        let [facts_bytes, greeting_bytes] =
            [facts.len(), self.saying.len()].map(|length| (length as u32).to_le_bytes());
        let parts = [&facts_bytes[..], &greeting_bytes, &facts, &self.saying];
        self.greeting_mac = self.mac(b"dialler greets..", &parts);
        let greeting = message(Kind::Greeting, &[parts[0], parts[1], parts[2], parts[3], &self.greeting_mac]);
        self.outbox.push_back(greeting);
    }

    /// The acceptor compares. Outside of `Ok` are messages that must not be believed.
    fn read_greeting(&mut self, body: &[u8]) -> Result<Result<Agreed, Refusal>, Refusal> {
        let (said, mac) = body.split_last_chunk::<MAC_BYTES>().expect("no shorter one passes its header");
        if !self.vouched(b"dialler greets..", &[said], mac) {
            return Err(Refusal::Altered);
        }
        let (lengths, texts) = said.split_first_chunk::<LENGTHS_BYTES>().expect("no shorter one passes its header");
        let [facts_bytes, greeting_bytes] = [0, 4].map(|at| {
            let length = lengths[at..at + 4].try_into().expect("four bytes of eight");
            u32::from_le_bytes(length) as usize
        });
        at_most("dialler's facts", facts_bytes, FACTS_BYTES_MAX)?;
        at_most("dialler's greeting", greeting_bytes, GREETING_BYTES_MAX)?;
        if facts_bytes + greeting_bytes != texts.len() {
            return Err(Refusal::Altered);
        }
        let (facts, greeting) = texts.split_at(facts_bytes);
        let theirs = Facts::decode(facts).ok_or(Refusal::Altered)?;
        self.greeting_mac = *mac;
        match self.facts.difference(&theirs) {
            None => {
                let reply = self.saying.clone();
                self.answer(Kind::Welcome, &reply);
                Ok(Ok(Agreed { said: greeting.to_vec() }))
            }
            Some(difference) => {
                let mut told = Vec::new();
                put_text(&mut told, &difference.name);
                put_text(&mut told, &difference.ours);
                self.answer(Kind::Differs, &told);
                Ok(Err(Refusal::Differs { name: difference.name, ours: difference.ours, theirs: difference.theirs }))
            }
        }
    }

    fn answer(&mut self, kind: Kind, said: &[u8]) {
        let mac = self.mac(b"acceptor answers", &[&self.greeting_mac, &[kind as u8], said]);
        self.outbox.push_back(message(kind, &[said, &mac]));
    }

    /// The dialler hears what came of it.
    fn read_answer(&self, body: &[u8]) -> Result<Result<Agreed, Refusal>, Refusal> {
        let kind = self.header[6];
        let (mut said, mac) = body.split_last_chunk::<MAC_BYTES>().expect("no shorter one passes its header");
        if !self.vouched(b"acceptor answers", &[&self.greeting_mac, &[kind], said], mac) {
            return Err(Refusal::Altered);
        }
        if kind == Kind::Welcome as u8 {
            return Ok(Ok(Agreed { said: said.to_vec() }));
        }
        let name = take_text(&mut said).ok_or(Refusal::Altered)?;
        let theirs = take_text(&mut said).ok_or(Refusal::Altered)?.to_owned();
        Ok(Err(Refusal::Differs { name: name.to_owned(), ours: self.facts.stated(name), theirs }))
    }

    fn finish(&mut self, end: Result<Agreed, Refusal>) {
        self.stage = Stage::Ended;
        self.end = Some(end);
    }
}

fn at_most(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    if bytes > bytes_max { Err(Refusal::TooLong { what, bytes, bytes_max }) } else { Ok(()) }
}
