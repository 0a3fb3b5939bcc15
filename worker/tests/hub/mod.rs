//! A small local server that answers as the Hugging Face hub does and injects the faults that a test requests.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this"
)]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use latentfarm_common::digest::Digest;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A fault of the next response that carries the content of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server closes the connection after this many bytes.
    CutAfter(usize),
    /// The server sends nothing more after this many bytes, but keeps the connection open.
    StallAfter(usize),
    /// The server ignores the requested range and sends the whole file.
    IgnoresRange,
}

/// A response that carried the content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub path: String,
    /// First byte of the requested range.
    pub from: usize,
    pub bytes: usize,
}

#[derive(Default)]
struct ServerState {
    /// The content and the claimed digest of each file, by path.
    files: HashMap<String, (Vec<u8>, String)>,
    faults: HashMap<String, Vec<Fault>>,
    served: Vec<Served>,
    requests: usize,
}

pub struct HubServer {
    pub endpoint: String,
    shared: Arc<Mutex<ServerState>>,
    stalled: Mutex<Receiver<()>>,
}

impl HubServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(ServerState::default()));
        let (stall, stalled) = channel();
        let (own_endpoint, own_shared) = (endpoint.clone(), Arc::clone(&shared));
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (endpoint, shared, stall) =
                    (own_endpoint.clone(), Arc::clone(&own_shared), stall.clone());
                std::thread::spawn(move || {
                    let _client_left = respond(stream, &endpoint, &shared, &stall);
                });
            }
        });
        Self {
            endpoint,
            shared,
            stalled: Mutex::new(stalled),
        }
    }

    /// Adds a file of the large-file storage, for which the hub gives the SHA-256.
    pub fn put(&self, repo: &str, name: &str, content: Vec<u8>) {
        let digest = Digest::of(&content).to_string();
        self.put_as(repo, name, content, &digest);
    }

    /// Adds a file with this `ETag`.
    pub fn put_as(&self, repo: &str, name: &str, content: Vec<u8>, etag: &str) {
        let path = format!("/{repo}/resolve/main/{name}");
        let mut shared = self.shared.lock().unwrap();
        shared.files.insert(path, (content, etag.to_owned()));
    }

    /// Queues a fault for a later response with more than one byte of the file's content.
    pub fn inject(&self, name: &str, fault: Fault) {
        let mut shared = self.shared.lock().unwrap();
        shared.faults.entry(name.to_owned()).or_default().push(fault);
    }

    /// Blocks until a response has stalled.
    pub fn wait_for_stall(&self) {
        self.stalled
            .lock()
            .unwrap()
            .recv_timeout(std::time::Duration::from_mins(1))
            .unwrap();
    }

    /// Returns the responses that carried the content of a file.
    pub fn served(&self, name: &str) -> Vec<Served> {
        let shared = self.shared.lock().unwrap();
        let of_file = shared.served.iter().filter(|served| served.path.ends_with(name));
        of_file.cloned().collect()
    }

    pub fn requests(&self) -> usize {
        self.shared.lock().unwrap().requests
    }
}

fn respond(
    mut stream: TcpStream,
    endpoint: &str,
    shared: &Mutex<ServerState>,
    stall: &Sender<()>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(requested) = header.strip_prefix("range: bytes=") {
            let (first, last) = requested.split_once('-').unwrap();
            range = Some((first.parse::<usize>().unwrap(), last.parse::<usize>().ok()));
        }
    }
    let mut locked = shared.lock().unwrap();
    locked.requests += 1;
    let key = path.strip_prefix("/storage").unwrap_or(&path).to_owned();
    let Some((content, etag)) = locked.files.get(&key).cloned() else {
        drop(locked);
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    // For a large file the hub sends its digest, its size and a redirect to the storage.
    if etag.len() == 64 && !path.starts_with("/storage") {
        drop(locked);
        let size = content.len();
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {endpoint}/storage{key}\r\nX-Repo-Commit: {COMMIT}\r\n\
             X-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {size}\r\nETag: \"elsewhere\"\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let (first, last) = range.unwrap_or((0, None));
    let end = last.map_or(content.len(), |last| content.len().min(last + 1));
    if first >= end {
        drop(locked);
        return stream.write_all(
            b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let is_metadata_request = end - first == 1 && content.len() > 1;
    let faults = locked
        .faults
        .iter_mut()
        .find(|(name, _)| key.ends_with(name.as_str()));
    let fault = match faults {
        Some((_, queued)) if !is_metadata_request && !queued.is_empty() => Some(queued.remove(0)),
        _ => None,
    };
    let (body, status) = match fault {
        Some(Fault::IgnoresRange) => (&content[..], "200 OK"),
        _ => (&content[first..end], "206 Partial Content"),
    };
    let sent = match fault {
        Some(Fault::CutAfter(bytes) | Fault::StallAfter(bytes)) => bytes.min(body.len()),
        _ => body.len(),
    };
    if !is_metadata_request {
        locked.served.push(Served {
            path: key,
            from: first,
            bytes: sent,
        });
    }
    drop(locked);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{}\r\n\
         X-Repo-Commit: {COMMIT}\r\nETag: \"{etag}\"\r\nConnection: close\r\n\r\n",
        body.len(),
        end - 1,
        content.len()
    )?;
    stream.write_all(&body[..sent])?;
    stream.flush()?;
    if let Some(Fault::StallAfter(_)) = fault {
        let _test_over = stall.send(());
        // This reads until the client closes the connection.
        let mut rest = String::new();
        reader.read_line(&mut rest)?;
    }
    Ok(())
}
