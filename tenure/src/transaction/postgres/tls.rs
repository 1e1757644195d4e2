//! Whether connections to Postgres are encrypted, and whom they trust: `sslmode` and `sslrootcert` of the URL, as every
//! client of Postgres has them.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, ErrorKind, Result};

/// What a server has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Nothing,
    /// That an authority which we trust has signed its certificate.
    Authority,
    /// And for the name by which it was called.
    Name,
}

/// What a URL says: how to connect, and what makes a connection encrypted.
pub(super) fn read(url: &str) -> Result<(Config, MakeRustlsConnect)> {
    let (mut mode, mut roots) = ("prefer".to_owned(), None);
    let (address, options) = split(url);
    // As with every client of Postgres, user and password end at the latest where the path begins.
    let user = address.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
    let is_behind_the_path = is_url(url) && user.is_some_and(|user| user.contains('/'));
    let mut others = Vec::new();
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = || percent_decode_str(value).decode_utf8_lossy().into_owned();
        match name {
            "sslmode" => mode = value(),
            "sslrootcert" => roots = Some(value()),
            "sslnegotiation" => others.push(option),
            _ if name.starts_with("ssl") => {
                let known = "of those about TLS there are sslmode, sslrootcert and sslnegotiation";
                return Err(invalid(format!("a Postgres URL has no option {name:?} here: {known}")));
            }
            _ => others.push(option),
        }
    }
    let (mode, proof) = match (&*mode, &roots) {
        ("disable" | "prefer", Some(_)) => {
            let message = format!(
                "sslrootcert says whom to trust, and with sslmode={mode} nobody is asked: give sslmode=verify-full"
            );
            return Err(invalid(message));
        }
        ("disable", None) => (SslMode::Disable, Proof::Nothing),
        ("prefer", None) => (SslMode::Prefer, Proof::Nothing),
        ("require", None) => (SslMode::Require, Proof::Nothing),
        // So it is with every client of Postgres.
        ("require", Some(_)) | ("verify-ca", _) => (SslMode::Require, Proof::Authority),
        ("verify-full", _) => (SslMode::Require, Proof::Name),
        _ => {
            let known = "disable, prefer, require, verify-ca or verify-full";
            return Err(invalid(format!("a Postgres URL has no sslmode={mode:?} here: give {known}")));
        }
    };
    let mut address = address.to_owned();
    if !others.is_empty() {
        address = format!("{address}?{}", others.join("&"));
    }
    // What the crate says of a URL may repeat a part of it, and a password is among them.
    let unreadable = || {
        invalid(
            "the Postgres URL cannot be read: it has the form postgres://user:password@host:port/database, \
             with characters such as @ : / ? # % in a user or password percent-encoded",
        )
    };
    let mut config: Config = address.parse().map_err(|_| unreadable())?;
    // An @ in the password itself, there or among the options: what follows is no host.
    let is_cut = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    if config.get_hosts().iter().any(is_cut) || is_behind_the_path {
        return Err(unreadable());
    }
    // A text of the other form, `host=… dbname=…`, has its own.
    if is_url(url) {
        config.ssl_mode(mode);
    }
    Ok((config, MakeRustlsConnect::new(client(proof, roots.as_deref())?)))
}

fn is_url(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// The options stand behind the first `?` after the user and the password.
fn split(url: &str) -> (&str, &str) {
    let host = url.find('@').unwrap_or(0);
    match url[host..].find('?') {
        Some(at) if is_url(url) => (&url[..host + at], &url[host + at + 1..]),
        _ => (url, ""),
    }
}

fn client(proof: Proof, roots: Option<&str>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let authority = match proof {
        Proof::Nothing => None,
        _ => Some(authority(roots.unwrap_or(SYSTEM), &provider)?),
    };
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has what the protocol's versions need");
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier { authority, is_named: proof == Proof::Name, algorithms };
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    // `sslnegotiation=direct` is refused without it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

/// The authorities that the machine trusts, as `sslrootcert` names them.
const SYSTEM: &str = "system";

fn authority(path: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let error = |why: String| invalid(format!("sslrootcert={path}: {why}"));
    let certificates = match path {
        SYSTEM => rustls_native_certs::load_native_certs().certs,
        _ => {
            let read = CertificateDer::pem_file_iter(path).map_err(|e| error(e.to_string()))?;
            read.collect::<Result<_, _>>().map_err(|e| error(e.to_string()))?
        }
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(error("there is no certificate of an authority: give a file in the form PEM that has one".into()));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    verifier.map_err(|e| error(e.to_string()))
}

/// Looks at as much of a certificate as is asked for. Whoever answers has its key in any case.
#[derive(Debug)]
struct Verifier {
    authority: Option<Arc<WebPkiServerVerifier>>,
    is_named: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(certificate, chain, name, ocsp, now) {
            // The name is looked at when all else is in order.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if !self.is_named =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Why no connection can be encrypted as it is to be, where that is what failed, and another attempt would not help.
pub(super) fn refused(error: &tokio_postgres::Error) -> Option<String> {
    let source = error.source()?;
    let tls = source.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            Some(format!("is not trusted: its certificate is no proof ({why}); see sslmode and sslrootcert"))
        }
        Some(_) => None,
        // The crate has no other sign of it.
        None => (source.to_string() == "server does not support TLS")
            .then(|| "has no TLS, and sslmode wants it: set ssl = on there".to_owned()),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::read;

    #[test]
    fn the_other_options_are_left_as_they_are() {
        let (config, _) =
            read("postgres://u:p?w%40@host/db?sslmode=require&application_name=a&connect_timeout=7").unwrap();
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
        assert_eq!((config.get_password(), config.get_application_name()), (Some(&b"p?w@"[..]), Some("a")));
        assert_eq!(config.get_connect_timeout().unwrap().as_secs(), 7);
    }

    #[test]
    fn each_mode_is_what_it_is_everywhere() {
        let mode =
            |options: &str| read(&format!("postgres://host/db{options}")).map(|(config, _)| config.get_ssl_mode());
        assert_eq!(mode("").unwrap(), SslMode::Prefer);
        assert_eq!(mode("?sslmode=disable").unwrap(), SslMode::Disable);
        for strict in ["require", "verify-ca", "verify-full"] {
            let mode = mode(&format!("?sslmode={strict}"));
            // A machine may trust nobody.
            assert!(mode.as_ref().map_or(strict != "require", |mode| *mode == SslMode::Require), "{mode:?}");
        }
        assert_eq!(read("host=h sslmode=disable").unwrap().0.get_ssl_mode(), SslMode::Disable);
    }

    #[test]
    fn no_part_of_a_password_is_taken_for_a_host() {
        for url in ["postgres://u:p@ss@host/db", "postgres://host/db?user=u&password=p@ss"] {
            assert!(read(url).map(drop).unwrap_err().to_string().contains("percent-encoded"), "{url}");
        }
        assert!(read("postgres://u:p@host/db?application_name=a@b").is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_named() {
        for (options, named) in [
            ("sslmode=verify", "verify-full"),
            ("sslmode=disable&sslrootcert=ca.pem", "sslmode=disable"),
            ("sslrootcert=ca.pem", "sslmode=prefer"),
            ("sslmode=require&sslcert=mine.pem", "sslcert"),
            ("sslmode=verify-full&sslrootcert=/no/such/file.pem", "/no/such/file.pem"),
        ] {
            let error = read(&format!("postgres://user:secret@host/db?{options}")).map(drop).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("secret"), "{options}: {error}");
        }
    }
}
