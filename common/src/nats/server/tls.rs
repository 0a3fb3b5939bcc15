//! The certificates of a farm's own server: an authority that is made once, a certificate of the server that is signed anew
//! at each start, for the names by which the server is reached then, and those of the clients, for a server that demands one.
//!
//! ```text
//! <dir>/ca.pem      certificate of the authority, which every client of the farm has
//! <dir>/ca.key      its private key
//! <dir>/server.pem  certificate of the server
//! <dir>/server.key  its private key
//! <dir>/client.pem  certificate of the programs that take their nkey from a file, with its private key
//! ```

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::error::ServerError;
use super::files::{create_file, create_folder};

/// The names by which clients on the same machine reach the server.
const LOCAL_NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// The files that the server and its clients read.
#[derive(Clone, Debug)]
pub(super) struct TlsFiles {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Certificate and private key of the clients on the server's side.
    pub(super) client: PathBuf,
}

impl TlsFiles {
    /// Returns where the files are in `dir`.
    fn at(dir: &Path) -> Self {
        Self {
            authority: dir.join("ca.pem"),
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
            client: dir.join("client.pem"),
        }
    }

    /// Makes the authority if `dir` has none, and a certificate for a server with these names or addresses, besides
    /// those of this machine for itself.
    pub(super) fn make(dir: &Path, hosts: &[String]) -> Result<Self, ServerError> {
        create_folder(dir)?;
        let files = Self::at(dir);
        let key_path = dir.join("ca.key");
        let (authority_key, is_new) = if let Some(key) = authority_key(dir)? {
            (key, false)
        } else {
            let key = KeyPair::generate().map_err(ServerError::Certificate)?;
            let certificate = authority()?.self_signed(&key).map_err(ServerError::Certificate)?;
            write(&files.authority, &certificate.pem())?;
            // The key comes last: an authority without its key is made again.
            write(&key_path, &key.serialize_pem())?;
            (key, true)
        };
        let names = LOCAL_NAMES
            .iter()
            .map(|name| (*name).to_owned())
            .chain(hosts.iter().cloned());
        let mut server =
            CertificateParams::new(names.collect::<Vec<_>>()).map_err(ServerError::Certificate)?;
        server.distinguished_name.push(DnType::CommonName, "farm server");
        // Servers of a cluster are clients of each other.
        server.extended_key_usages.extend([
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ]);
        let key = KeyPair::generate().map_err(ServerError::Certificate)?;
        let issuer = Issuer::new(authority()?, authority_key);
        let certificate = server
            .signed_by(&key, &issuer)
            .map_err(ServerError::Certificate)?;
        write(&files.certificate, &certificate.pem())?;
        write(&files.key, &key.serialize_pem())?;
        if is_new || !files.client.exists() {
            let client = client_certificate(dir, "farm")?;
            client.map_or(Ok(()), |pem| write(&files.client, &pem))?;
        }
        Ok(files)
    }
}

/// Makes a certificate for a client of this name, signed by the authority in `dir`. Returns it with its private key, in
/// PEM, or `None` if the authority's private key is not there.
pub(super) fn client_certificate(dir: &Path, name: &str) -> Result<Option<String>, ServerError> {
    let Some(authority_key) = authority_key(dir)? else {
        return Ok(None);
    };
    let mut client = CertificateParams::new(Vec::<String>::new()).map_err(ServerError::Certificate)?;
    client.distinguished_name.push(DnType::CommonName, name);
    client
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ClientAuth);
    let key = KeyPair::generate().map_err(ServerError::Certificate)?;
    let issuer = Issuer::new(authority()?, authority_key);
    let certificate = client
        .signed_by(&key, &issuer)
        .map_err(ServerError::Certificate)?;
    Ok(Some(certificate.pem() + &key.serialize_pem()))
}

/// Reads the private key of the authority in `dir`, if there is one.
fn authority_key(dir: &Path) -> Result<Option<KeyPair>, ServerError> {
    let path = dir.join("ca.key");
    match fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem)
            .map(Some)
            .map_err(ServerError::Certificate),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServerError::files("read", &path)(error)),
    }
}

/// Returns the description of the authority, which is the same whenever it signs.
fn authority() -> Result<CertificateParams, ServerError> {
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(ServerError::Certificate)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "farm authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(params)
}

fn write(path: &Path, text: &str) -> Result<(), ServerError> {
    let written = create_file(path)?.write_all(text.as_bytes());
    written.map_err(ServerError::files("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_the_server_gets_a_certificate_for_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let first = TlsFiles::make(dir.path(), &[]).unwrap();
        let (authority, certificate) = (read(&first.authority), read(&first.certificate));
        let again = TlsFiles::make(dir.path(), &["farm.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        assert_eq!(read(&again.authority), authority);
        assert_ne!(read(&again.certificate), certificate);
        // A client has a certificate and its key in one file, which stays too.
        let client = read(&first.client);
        assert_eq!(read(&again.client), client);
        assert!(client.contains("BEGIN CERTIFICATE") && client.contains("PRIVATE KEY"));
        // An authority whose key was never written is made again, and its clients with it.
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let anew = TlsFiles::make(dir.path(), &[]).unwrap();
        assert_ne!(read(&anew.authority), authority);
        assert_ne!(read(&anew.client), client);
    }
}
