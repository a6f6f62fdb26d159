//! TLS 1.3 around a handshake: nobody in between can read or alter what is said.
//!
//! There are no certificates to manage. A listener makes one for itself, and a dialler takes any; who is at the other end is
//! proven by the secret alone, as without TLS. What keeps out somebody who opens TLS to each of the two and passes on what they
//! say: the proofs cover key material that only the two ends of *one* TLS connection have in common (RFC 9266), so that they do
//! not hold across two.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme};

use crate::connection::Carried;
use crate::kernel_tls;
use crate::session::Binding;

/// The first byte that a dialler of TLS sends: its record is a handshake.
pub(crate) const FIRST_BYTE: u8 = 0x16;

/// The label under which RFC 9266 derives what ties other proofs to a connection.
const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// | type 1 | version 2 | body bytes 2 |
const RECORD_HEADER_BYTES: usize = 5;

/// What is spoken: TLS 1.3 and nothing older.
///
/// Where the kernel takes over after the handshake, one cipher only: it does not change keys by itself, and with this one it
/// never has to. With AES-GCM, keys are good for 2^24 records, which a busy link sends within minutes.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    if kernel_tls::available() {
        provider.cipher_suites = vec![cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    }
    Arc::new(provider)
}

/// What a listener needs for TLS: a certificate that it has made for itself.
#[derive(Debug)]
pub(crate) struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    pub(crate) fn new() -> io::Result<Acceptor> {
        let made = rcgen::generate_simple_self_signed(["millstream".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|config| config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
            .map_err(io::Error::other)?;
        // Connections live long and are never taken up again; and behind the handshake only what is ours may follow.
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = kernel_tls::available();
        Ok(Acceptor(Arc::new(config)))
    }

    pub(crate) fn accept(&self, socket: TcpStream) -> io::Result<Stream> {
        let tls = ServerConnection::new(self.0.clone()).map_err(io::Error::other)?;
        Ok(Stream::new(tls.into(), socket))
    }
}

/// Takes any certificate, since who is there is proven otherwise; but who shows it must have its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One end of TLS over a socket that does not block.
pub(crate) struct Stream {
    tls: rustls::Connection,
    socket: Records,
}

impl Stream {
    fn new(mut tls: rustls::Connection, socket: TcpStream) -> Stream {
        // A message of the handshake is taken whole, and flushed before the next; its length has a limit of its own.
        tls.set_buffer_limit(None);
        Stream { tls, socket: Records::new(socket) }
    }

    pub(crate) fn dial(socket: TcpStream) -> io::Result<Stream> {
        let provider = provider();
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        // Nothing is said in the clear about who is called.
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_secret_extraction = kernel_tls::available();
        let name = ServerName::try_from("millstream").expect("it is a name");
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(Stream::new(tls.into(), socket))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket.socket
    }

    /// Goes on until both ends have the keys; then says what ties a proof to this connection.
    ///
    /// # Errors
    /// `WouldBlock` where the other end is to be waited for, `InvalidData` if it does not speak TLS as we do.
    pub(crate) fn handshake(&mut self) -> io::Result<Binding> {
        loop {
            self.flush()?;
            if !self.tls.is_handshaking() {
                let export = self.tls.export_keying_material(Binding::default(), BINDING_LABEL, None);
                return export.map_err(io::Error::other);
            }
            if self.read_record()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads what the socket has of one record. 0 at its end.
    fn read_record(&mut self) -> io::Result<usize> {
        let bytes = self.tls.read_tls(&mut self.socket)?;
        if let Err(error) = self.tls.process_new_packets() {
            // The other end is told why, if it listens.
            let _ = self.flush();
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(bytes)
    }

    /// The socket for everything after the handshake: this one with the kernel's TLS, or one end of a pair whose other end is
    /// relayed.
    pub(crate) fn into_socket(self, peer: &str) -> io::Result<(OwnedFd, Carried)> {
        if !kernel_tls::available() {
            return Ok((crate::relay::start(self.tls, self.socket.socket, peer)?, Carried::Relayed));
        }
        assert!(
            self.socket.between_records(),
            "records are read one by one, and whole before anything is made of them"
        );
        let secrets = self.tls.dangerous_extract_secrets().map_err(io::Error::other)?;
        kernel_tls::take_over(&self.socket.socket, secrets)?;
        self.socket.socket.set_nonblocking(false)?;
        Ok((self.socket.socket.into(), Carried::KernelTls))
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.read_record()? == 0 {
                        return Ok(0);
                    }
                }
                read => return read,
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tls.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// A socket that is read record by record, and never beyond the one that is asked for: what follows the handshake's last record
/// may be the kernel's to decrypt.
struct Records {
    socket: TcpStream,
    header: [u8; RECORD_HEADER_BYTES],
    header_have: usize,
    /// Of the body behind a whole header.
    body_left: usize,
}

impl Records {
    fn new(socket: TcpStream) -> Records {
        Records { socket, header: [0; RECORD_HEADER_BYTES], header_have: 0, body_left: 0 }
    }

    fn between_records(&self) -> bool {
        self.header_have == 0
    }
}

impl Read for Records {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = if self.header_have < RECORD_HEADER_BYTES {
            RECORD_HEADER_BYTES - self.header_have
        } else {
            self.body_left
        };
        let most = left.min(bytes.len());
        let count = self.socket.read(&mut bytes[..most])?;
        if self.header_have < RECORD_HEADER_BYTES {
            self.header[self.header_have..][..count].copy_from_slice(&bytes[..count]);
            self.header_have += count;
            if self.header_have == RECORD_HEADER_BYTES {
                self.body_left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            }
        } else {
            self.body_left -= count;
        }
        if self.header_have == RECORD_HEADER_BYTES && self.body_left == 0 {
            self.header_have = 0;
        }
        Ok(count)
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
