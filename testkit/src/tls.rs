//! A Redis server that speaks TLS, under an authority of its own.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{Redis, free_port};

/// A server as [`Redis`], with a second port that speaks TLS for `localhost` and 127.0.0.1.
#[derive(Debug)]
pub struct TlsRedis {
    redis: Redis,
    port: u16,
    dir: TempDir,
}

impl TlsRedis {
    /// Makes an authority and a certificate, and starts the server.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("tenure-tls-").tempdir().expect("a temporary folder can be made");
        let mut params = CertificateParams::new(vec![]).expect("there is no name to be wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = || KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority can sign itself");
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let (server, server_key) = (CertificateParams::new(names).expect("both are names"), key());
        let server = server.signed_by(&server_key, &authority).expect("an authority can sign");
        let file = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).expect("a temporary file can be written");
            dir.path().join(name).to_str().expect("its path is UTF-8").to_owned()
        };
        let (ca, cert) = (file("ca.pem", authority.pem()), file("server.pem", server.pem()));
        let key = file("server.key", server_key.serialize_pem());
        let port = free_port();
        let port_text = port.to_string();
        let redis = Redis::start_with(&[
            "--tls-port",
            &port_text,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "no",
        ]);
        Self { redis, port, dir }
    }

    /// `rediss://localhost:port`, which trusts nobody in particular.
    pub fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server itself, which also has a port without TLS.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }
}
