//! Servers that speak TLS, each under an authority of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::postgres::give;
use crate::{Postgres, Redis, free_port};

/// An authority, and a certificate by it for `localhost` and 127.0.0.1.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes both.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
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
    pub fn ca(&self) -> PathBuf {
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

/// A server as [`Postgres`] that lets nobody in without TLS. Its certificate is for `localhost` and 127.0.0.1.
#[derive(Debug)]
pub struct TlsPostgres {
    postgres: Postgres,
    certificates: Certificates,
}

impl TlsPostgres {
    /// Makes an authority and a certificate, and starts the server.
    pub fn start() -> Self {
        let certificates = Certificates::new();
        let path = |name: &str| certificates.0.path().join(name);
        std::fs::write(path("hba"), "hostssl all all 127.0.0.1/32 scram-sha-256\n").expect("a file can be written");
        // It wants a key that nobody else can read.
        std::fs::set_permissions(path("server.key"), PermissionsExt::from_mode(0o600)).expect("it is our file");
        for name in ["", "server.pem", "server.key", "hba"] {
            give(&path(name));
        }
        let setting = |name: &str, file: &str| format!("{name}={}", path(file).display());
        let files = [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("hba_file", "hba")];
        let settings: Vec<String> = files.iter().map(|(name, file)| setting(name, file)).collect();
        let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        settings.push("ssl=on");
        let postgres = Postgres::start_with(&settings);
        Self { postgres, certificates }
    }

    /// `postgres://postgres:password@host:port/postgres?hostaddr=127.0.0.1&options`: the server by any name.
    pub fn url(&self, host: &str, options: &str) -> String {
        let url = self.postgres.url().replace("@127.0.0.1:", &format!("@{host}:"));
        format!("{url}?hostaddr=127.0.0.1&{options}")
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.certificates.ca()
    }

    /// The server itself.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }
}
