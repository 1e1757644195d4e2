//! A Redis server that speaks TLS, under an authority of its own.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{Redis, free_port};

/// An authority, and a certificate by it for `localhost` and 127.0.0.1.
#[derive(Debug)]
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("tenure-tls-").tempdir().expect("a temporary folder can be made");
        let mut params = CertificateParams::new(vec![]).expect("there is no name to be wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With one name for both, a server's certificate would look like one that is its own authority.
        params.distinguished_name.push(DnType::CommonName, "tenure test authority");
        let key = || KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority can sign itself");
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let (server, server_key) = (CertificateParams::new(names).expect("both are names"), key());
        let server = server.signed_by(&server_key, &authority).expect("an authority can sign");
        let file = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).expect("a temporary file can be written");
        };
        file("ca.pem", authority.pem());
        file("server.pem", server.pem());
        file("server.key", server_key.serialize_pem());
        Self(dir)
    }

    /// The authority's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// What a server has to be told to speak TLS on that port, each setting with its value.
    pub(crate) fn settings(&self, port: u16) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.0.path().join(name).to_str().expect("its path is UTF-8").to_owned();
        vec![
            ("tls-port", port.to_string()),
            ("tls-cert-file", path("server.pem")),
            ("tls-key-file", path("server.key")),
            ("tls-ca-cert-file", path("ca.pem")),
            ("tls-auth-clients", "no".into()),
        ]
    }

    /// The same as options on a command line.
    pub(crate) fn options(&self, port: u16) -> Vec<String> {
        self.settings(port).into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }
}

/// A server as [`Redis`], with a second port that speaks TLS for `localhost` and 127.0.0.1.
#[derive(Debug)]
pub struct TlsRedis {
    redis: Redis,
    port: u16,
    certificates: Certificates,
}

impl TlsRedis {
    /// Makes an authority and a certificate, and starts the server.
    pub fn start() -> Self {
        let (certificates, port) = (Certificates::new(), free_port());
        let options = certificates.options(port);
        let redis = Redis::start_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
        Self { redis, port, certificates }
    }

    /// `rediss://localhost:port`, which trusts nobody in particular.
    pub fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.certificates.ca()
    }

    /// The server itself, which also has a port without TLS.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }
}
