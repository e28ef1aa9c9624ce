//! `/init` of the emulated host: loads KVM, runs the program, tells its exit status, powers off.
//!
//! What it tells are lines that begin with a mark: `run` where the program’s output begins,
//! `exit N` where it ended, `broken …` if it never came to that; `file …` is a file that the
//! program left behind, in base64.

use std::process;

use anyhow::{Context, Result};

/// A mark that no program can print by chance: not even one that runs a guest with an init like
/// ours, and prints what the guest prints.
pub fn mark() -> String {
    format!("xtask-host-{}:", process::id())
}

/// The script: it loads these modules from `/modules` (their files’ names in loading order, with
/// spaces between), runs `/bin/program` with these arguments in `/work`, and sends the file there
/// that is named `fetched`.
pub fn script(
    mark: &str,
    modules: &str,
    arguments: &[String],
    fetched: Option<&str>,
) -> Result<String> {
    let arguments = shlex::try_join(arguments.iter().map(String::as_str))
        .context("an argument of the program holds a NUL character")?;
    let send = match fetched {
        None => String::new(),
        Some(name) => {
            let name = shlex::try_quote(name).context("the name of a file")?;
            format!("[ -f {name} ] && echo \"{mark} file $($busybox base64 -w 0 {name})\"\n")
        }
    };
    Ok(format!(
        r#"#!/bin/busybox sh
busybox=/bin/busybox
broken() {{ echo "{mark} broken $1"; $busybox poweroff -f; }}
$busybox mkdir -p /dev /proc /sys /tmp /work
$busybox mount -t devtmpfs dev /dev || broken "no devtmpfs"
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
for module in {modules}; do
    $busybox insmod /modules/$module || broken "$module does not load"
done
cd /work
echo "{mark} run"
/bin/program {arguments} </dev/null
status=$?
{send}echo "{mark} exit $status"
$busybox poweroff -f
"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_program_as_they_are() -> Result<()> {
        let arguments = ["--name".to_owned(), "two words; $HOME".to_owned()];
        let script = script("mark:", "kvm.ko kvm_hv.ko", &arguments, Some("a file"))?;
        assert!(script.contains("for module in kvm.ko kvm_hv.ko; do\n"), "{script}");
        assert!(script.contains("/bin/program --name 'two words; $HOME' </dev/null\n"), "{script}");
        let send = "[ -f 'a file' ] && echo \"mark: file $($busybox base64 -w 0 'a file')\"\necho";
        assert!(script.contains(send), "{script}");
        Ok(())
    }
}
