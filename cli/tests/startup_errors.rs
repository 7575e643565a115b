//! What stops a process at its start is told in one line that names the culprit, with exit code 1.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CLUSTER: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

/// A folder with a configuration that would start.
struct Case {
    role: &'static str,
    folder: tempfile::TempDir,
    text: String,
}

impl Case {
    fn new(role: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        let head = format!("cluster-id = \"{CLUSTER}\"\nsecret = \"{}\"\n", "0b".repeat(32));
        let any = "\"127.0.0.1:0\"";
        let text = match role {
            "node" => format!(
                "{head}sentinels = [\"127.0.0.1:1\"]\ndata-dir = \"{data}\"\nlink-listen = {any}\n\
                 peer-listen = {any}\nheartbeat-listen = {any}\ncontrol-listen = {any}\n\
                 metrics-listen = {any}\n"
            ),
            "sentinel" => format!(
                "id = 1\n{head}data-dir = \"{data}\"\napi-listen = {any}\npeer-listen = {any}\n\n\
                 [cluster]\nshards = 1\nreplicas = 1\n\n\
                 [[members]]\nid = 1\napi-addr = \"127.0.0.1:1\"\npeer-addr = \"127.0.0.1:2\"\n"
            ),
            "proxy" => format!(
                "{head}sentinels = [\"127.0.0.1:1\"]\nplain-listen = {any}\nadmin-listen = {any}\n"
            ),
            _ => panic!("{role} is not a role"),
        };
        Self { role, folder, text }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn with(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from}");
        self.text = self.text.replacen(from, to, 1);
        self
    }

    /// The one line that the process ends with.
    fn refused(&self) -> String {
        let path = self.folder.path().join(format!("{}.toml", self.role));
        fs::write(&path, &self.text).unwrap();
        let errors = self.folder.path().join("stderr");
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args([self.role.as_ref(), "--config".as_ref(), path.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("{} started: {}", self.role, fs::read_to_string(&errors).unwrap());
            }
            // Between two looks at a process that ends within a second.
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = fs::read_to_string(&errors).unwrap();
        assert_eq!(status.code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text.trim_end().to_owned()
    }

    /// The line names all of `parts`.
    fn refused_with(&self, parts: &[&str]) {
        let line = self.refused();
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
    }
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    for (role, line) in [("node", 10), ("sentinel", 7), ("proxy", 6)] {
        let case = Case::new(role);
        let at = case.text.find("\n\n").map_or(case.text.len(), |at| at + 1);
        let mut text = case.text.clone();
        text.insert_str(at, "lstien = 1\n");
        let place = format!("{role}.toml:{line}: ");
        Case { text, ..case }.refused_with(&[&place, "lstien"]);
    }
}

#[test]
fn a_wrong_value_is_named_with_file_line_and_key() {
    let case = Case::new("node").with("[\"127.0.0.1:1\"]", "[\"nowhere\"]");
    case.refused_with(&["node.toml:3: sentinels: \"nowhere\" is not host:port"]);
    let case = Case::new("sentinel").with("replicas = 1", "replicas = 4");
    case.refused_with(&["sentinel.toml:10: replicas: must be 1, 2, 3 or 5, not 4"]);
    let case = Case::new("proxy").with("plain-listen", "listen");
    case.refused_with(&["proxy.toml:4: listen: TLS needs tls-cert-file and tls-key-file"]);
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let keys = [
        ("node", "link-listen"),
        ("node", "metrics-listen"),
        ("sentinel", "api-listen"),
        ("sentinel", "peer-listen"),
        ("proxy", "plain-listen"),
        ("proxy", "admin-listen"),
    ];
    for (role, key) in keys {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let free = format!("{key} = \"127.0.0.1:0\"");
        let case = Case::new(role).with(&free, &format!("{key} = \"{address}\""));
        case.refused_with(&[key, &address, "in use"]);
    }
}

#[test]
fn a_missing_secret_or_certificate_is_named() {
    for role in ["node", "sentinel", "proxy"] {
        let secret = format!("secret = \"{}\"", "0b".repeat(32));
        let case = Case::new(role).with(&secret, "secret-file = \"/nowhere/secret\"");
        case.refused_with(&["/nowhere/secret", "No such file"]);
    }
    let tls = "listen = \"127.0.0.1:0\"\ntls-cert-file = \"/nowhere/cert\"\n\
               tls-key-file = \"/nowhere/key\"\nadmin-listen";
    let case = Case::new("proxy").with("admin-listen", tls);
    case.refused_with(&["/nowhere/cert", "No such file"]);
    let case = Case::new("proxy").with("admin-listen", tls);
    let cert = case.folder.path().join("cert");
    fs::write(&cert, "nonsense").unwrap();
    let case = case.with("/nowhere/cert", &cert.display().to_string());
    case.refused_with(&[&cert.display().to_string()]);
}

#[test]
fn a_folder_that_is_not_ours_or_cannot_be_used_is_named() {
    for role in ["node", "sentinel"] {
        let case = Case::new(role);
        let folder = case.data().display().to_string();
        // A file in its place: what a folder without permission is to a user, also for root.
        fs::write(case.data(), "").unwrap();
        case.refused_with(&[&folder]);

        let case = Case::new(role);
        let folder = case.data().display().to_string();
        fs::create_dir(case.data()).unwrap();
        let other = "0c".repeat(16);
        let identity = match role {
            "node" => format!("{{\"cluster-id\":\"{other}\",\"node-id\":1,\"instance\":\"x\"}}"),
            _ => format!("{{\"cluster_id\":\"{other}\",\"sentinel\":1}}"),
        };
        fs::write(case.data().join("identity.json"), identity).unwrap();
        case.refused_with(&[&folder, "belongs to another cluster"]);

        let case = Case::new(role);
        fs::create_dir(case.data()).unwrap();
        fs::write(case.data().join("identity.json"), "{").unwrap();
        case.refused_with(&[&case.data().display().to_string(), "identity.json"]);

        let case = Case::new(role);
        fs::create_dir(case.data()).unwrap();
        let _lock = lock(&case.data());
        case.refused_with(&[&case.data().display().to_string(), "another process"]);
    }
}

fn lock(folder: &Path) -> fs::File {
    let file = fs::File::create(folder.join("lock")).unwrap();
    let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, operation).unwrap();
    file
}
