//! The configuration of a nats-server that serves one farm. Its users, and what each may do, are in a file of their own
//! beside it, `users.conf`, which changes when a worker is invited or shut out. They hold public keys only.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::tls::TlsFiles;
use super::users::User;

/// Limit of all stored data, from which streams reserve their own limits. Nothing is allocated ahead.
pub(super) const DEFAULT_MAX_FILE_BYTES: u64 = 64 << 30;

/// A cluster of servers, as one of them is configured for it. They recognise each other by their certificates.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The name of this server, which no other of the cluster has.
    pub server_name: String,
    /// The address and the port at which this server listens for the others.
    pub listen: SocketAddr,
    /// Where the others listen, such as `nats://n2:6222`.
    pub routes: Vec<String>,
}

/// The settings that differ between the servers of two farms.
pub(super) struct ServerConfig<'a> {
    /// Folder for the streams (`js/`) and the process id (`run/nats.pid`).
    pub(super) dir: &'a Path,
    /// Address at which the server listens.
    pub(super) host: &'a str,
    /// Port at which the server listens; -1 for a free one.
    pub(super) port: i32,
    /// Limit of all stored data in bytes.
    pub(super) max_file_bytes: u64,
    /// The certificate with which the server encrypts all connections; `None` for a server without.
    pub(super) tls: Option<&'a TlsFiles>,
    /// Whether the server demands a certificate of each client too, if it encrypts.
    pub(super) demands_certificates: bool,
    /// The cluster that the server is one of, if it is.
    pub(super) cluster: Option<&'a Cluster>,
    /// Whether another program starts the server and reads its log file and its port from `dir`.
    pub(super) is_embedded: bool,
}

/// The file with the users, beside the configuration.
pub(super) const USERS_FILE: &str = "users.conf";

/// Returns the text of the configuration file.
pub(super) fn render(config: &ServerConfig<'_>) -> String {
    let at = |name: &str| quote(&config.dir.join(name).to_string_lossy());
    // Writing to a string cannot fail.
    let mut text = String::new();
    if config.is_embedded {
        let (ports, log) = (at("run"), at("nats.log"));
        let _ = writeln!(text, "ports_file_dir: {ports}\nlogfile: {log}");
        text.push_str("logfile_size_limit: 16MB\nlogfile_max_num: 4\n");
    }
    if let Some(tls) = config.tls {
        let _ = writeln!(
            text,
            "tls {{ {} }}",
            certificates(tls, config.demands_certificates)
        );
    }
    let mut server_name = "latentfarm";
    if let Some(cluster) = config.cluster {
        server_name = &cluster.server_name;
        let tls = config
            .tls
            .map(|tls| format!("\n  tls {{ {} }}", certificates(tls, true)));
        let _ = writeln!(
            text,
            "cluster {{\n  name: latentfarm\n  listen: {}\n  routes: {}{}\n}}",
            quote(&cluster.listen.to_string()),
            list(&cluster.routes),
            tls.unwrap_or_default()
        );
    }
    let server_name = quote(server_name);
    let (host, port) = (quote(config.host), config.port);
    let (pid_file, store_dir, max_file) = (at("run/nats.pid"), at("js"), config.max_file_bytes);
    // By default the server syncs every two minutes, so that a power loss could lose acknowledged records.
    let _ = write!(
        text,
        "\
server_name: {server_name}
host: {host}
port: {port}
pid_file: {pid_file}
max_payload: 1MB
ping_interval: \"5s\"
ping_max: 2
write_deadline: \"5s\"
lame_duck_grace_period: \"1s\"
lame_duck_duration: \"30s\"
jetstream {{
  store_dir: {store_dir}
  sync_interval: always
  max_mem: 64MB
  max_file: {max_file}
  strict: true
}}
accounts {{
  SYS {{ users: [] }}
  FARM {{
    jetstream: enabled
    include \"{USERS_FILE}\"
  }}
}}
system_account: SYS
"
    );
    text
}

/// Returns the settings by which a server presents its certificate, and may demand those of others.
fn certificates(tls: &TlsFiles, demands_certificates: bool) -> String {
    let path = |path: &Path| quote(&path.to_string_lossy());
    let (certificate, key, authority) = (path(&tls.certificate), path(&tls.key), path(&tls.authority));
    let demanded = if demands_certificates {
        format!(", ca_file: {authority}, verify: true")
    } else {
        String::new()
    };
    format!("cert_file: {certificate}, key_file: {key}{demanded}")
}

/// Returns the text of the file with the users.
pub(super) fn render_users(users: &[&User]) -> String {
    let mut text = "users: [\n".to_owned();
    for user in users {
        let permissions = user.role.permissions();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  # {}", user.role);
        let _ = writeln!(text, "  {{ nkey: {}, permissions: {{", user.public_key);
        let _ = writeln!(
            text,
            "      publish: {{ allow: {}, deny: {} }}",
            list(&permissions.publish),
            list(&permissions.publish_deny)
        );
        let _ = writeln!(
            text,
            "      subscribe: {{ allow: {} }} }} }}",
            list(&permissions.subscribe)
        );
    }
    text.push_str("]\n");
    text
}

fn list(subjects: &[String]) -> String {
    let quoted: Vec<String> = subjects.iter().map(|subject| quote(subject)).collect();
    format!("[{}]", quoted.join(", "))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted() {
        let text = render(&ServerConfig {
            dir: Path::new("/tmp/a \"b\""),
            host: "127.0.0.1",
            port: -1,
            max_file_bytes: 1,
            tls: None,
            demands_certificates: false,
            cluster: None,
            is_embedded: true,
        });
        assert!(text.contains(r#"store_dir: "/tmp/a \"b\"/js""#), "{text}");
    }
}
