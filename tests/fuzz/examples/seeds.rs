//! Writes the seeds of all fuzz targets to `FOLDER/TARGET`, by name of their content: `fuzz-seeds FOLDER`.

use std::path::PathBuf;
use std::{env, fs, io};

use latentfarm_common::digest::Digest;
use latentfarm_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("fuzz-seeds: give the folder for the seeds"))?;
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for seed in (target.seeds)() {
            fs::write(folder.join(Digest::of(&seed).to_string()), seed)?;
        }
    }
    Ok(())
}
