//! Child processes that do not outlive their parent: nats-server, workers, engines and media processes.

use std::fs::File;
use std::io;
use std::process::Command;

/// Makes the kernel kill the child when the thread that spawns it ends, for whatever reason. Spawn from a
/// thread that lives as long as the child should.
pub fn die_with_parent(command: &mut Command) {
    die_with_parent_by(command, nix::sys::signal::Signal::SIGKILL);
}

/// Does what [`die_with_parent`] does with another signal, such as one on which the child ends in order.
pub fn die_with_parent_by(command: &mut Command, signal: nix::sys::signal::Signal) {
    use std::os::unix::process::CommandExt as _;

    let parent = nix::unistd::getpid();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have ended before the line above.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::other("the parent process has ended"))
        }
    };
    #[expect(
        unsafe_code,
        reason = "there is no other way to set the parent-death signal of a child"
    )]
    // SAFETY: the closure makes two system calls and allocates nothing on its success path, which is what the
    // state between fork and exec allows.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Lets the child inherit an open file, and with it a lock on the file: the kernel keeps the lock until both this
/// process and the child have closed the file or ended.
///
/// # Errors
/// If the process can open no more files.
pub fn keep_open(command: &mut Command, file: &File) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    let file = file.try_clone()?;
    let before_exec = move || {
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "there is no other way to let one child alone inherit a file"
    )]
    // SAFETY: the closure makes one system call and allocates nothing, which is what the state between fork and
    // exec allows.
    unsafe {
        command.pre_exec(before_exec);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    #[test]
    fn child_dies_with_the_thread_that_spawned_it() {
        let spawned = std::thread::spawn(|| {
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", "echo up; exec sleep 1000"])
                .stdout(Stdio::piped());
            die_with_parent(&mut command);
            let mut child = command.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "up\n");
            child
        });
        let mut child = spawned.join().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
