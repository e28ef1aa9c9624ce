//! Running `ptdump`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use duct::cmd;
use serde_json::Value;

use crate::cargo::cargo;
use crate::command;
use crate::xtask::Xtask;

/// The program.
pub struct Ptdump {
    program: PathBuf,
    /// Options of `translate` besides a view's: which accesses are judged.
    judged: &'static [&'static str],
    /// The image may lack something.
    partly: bool,
}

/// A range that it lists.
pub struct Mapped {
    pub va: u64,
    /// Bytes of its pages.
    pub size: u64,
    pub bytes: u64,
}

impl Ptdump {
    /// Builds it.
    pub fn build(xtask: &Xtask) -> Result<Self> {
        let build = cargo(xtask, ["build", "--package", "ptdump"]);
        command::stream("building ptdump", &build)?;
        Ok(Self { program: xtask.target("debug").join("ptdump"), judged: &[], partly: false })
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The same with these options of `translate`.
    pub fn judging(&self, judged: &'static [&'static str]) -> Self {
        Self { program: self.program.clone(), judged, partly: false }
    }

    /// Runs it on `core` with these options and this command; standard input is `input`.
    fn json(
        &self,
        core: &Path,
        view: &[String],
        command: &[&str],
        input: String,
    ) -> Result<Vec<Value>> {
        let (command, rest) = command.split_first().context("no command")?;
        let mut arguments = vec![(*command).to_owned(), core.display().to_string()];
        arguments.extend(rest.iter().map(|&word| word.to_owned()));
        arguments.push("--json".to_owned());
        arguments.extend_from_slice(view);
        let run = cmd(&self.program, &arguments)
            .stdin_bytes(input)
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .run()?;
        let stderr = String::from_utf8_lossy(&run.stderr);
        // 1 says that some address does not translate, 3 that the image does not hold all.
        let fine = match run.status.code() {
            Some(0 | 1) => true,
            Some(3) => self.partly,
            _ => false,
        };
        if !fine {
            bail!("ptdump {}: {}\n{stderr}", arguments.join(" "), run.status);
        }
        let json = serde_json::from_slice(&run.stdout)
            .with_context(|| format!("ptdump's answer\n{stderr}"))?;
        let mut json: Value = json;
        let (key, mut answer) = match *command {
            "list" => ("ranges", json["ranges"].take()),
            "ps" => ("processes", json["processes"]["processes"].take()),
            "reverse" => ("aliases", json["aliases"].take()),
            _ => ("translations", json["translations"].take()),
        };
        let Value::Array(all) = answer.take() else { bail!("ptdump's answer has no {key}") };
        Ok(all)
    }

    /// The processes that it finds in the kernel's list of tasks.
    pub fn processes(&self, core: &Path) -> Result<Vec<Value>> {
        self.json(core, &[], &["ps"], String::new())
    }

    /// The same by the looks of their root tables.
    pub fn looks(&self, core: &Path) -> Result<Vec<Value>> {
        self.json(core, &[], &["ps", "--looks"], String::new())
    }

    /// Which addresses of which processes lead to these physical ones.
    pub fn reverse(&self, core: &Path, physical: &[u64]) -> Result<Vec<Value>> {
        let physical: Vec<_> = physical.iter().map(|it| format!("{it:#x}")).collect();
        let words = ["reverse", "--all-processes"].into_iter();
        let words: Vec<_> = words.chain(physical.iter().map(String::as_str)).collect();
        self.json(core, &[], &words, String::new())
    }

    /// The root that it takes.
    pub fn root(&self, core: &Path, view: &[String]) -> Result<u64> {
        let words = ["info".to_owned(), core.display().to_string(), "--json".to_owned()];
        let words = words.into_iter().chain(view.iter().cloned());
        let output = cmd(&self.program, words).stderr_capture().read()?;
        let info: Value = serde_json::from_str(&output)?;
        number(&info["tables"]["root"]).context("ptdump info tells no root")
    }

    /// Without options it finds `what` in the core, as it says on standard error.
    pub fn expect(&self, core: &Path, what: &str) -> Result<()> {
        let run =
            cmd!(&self.program, "stats", core).stdout_null().stderr_capture().unchecked().run()?;
        let stderr = String::from_utf8_lossy(&run.stderr);
        if !run.status.success() || !stderr.contains(what) {
            bail!("expected {what:?} of ptdump; it says\n{stderr}");
        }
        Ok(())
    }

    /// What it lists as mapped, with all that it says.
    pub fn ranges(&self, core: &Path, view: &[String]) -> Result<Vec<Value>> {
        let ranges = self.json(core, view, &["list"], String::new())?;
        let faults: Vec<_> = ranges.iter().filter(|range| !range["fault"].is_null()).collect();
        if let [first, ..] = faults[..] {
            bail!(
                "ptdump finds {} ranges of a sound machine wrong, the first: {first}",
                faults.len()
            );
        }
        Ok(ranges)
    }

    /// What it lists as mapped.
    pub fn list(&self, core: &Path, view: &[String]) -> Result<Vec<Mapped>> {
        let ranges = self.ranges(core, view)?;
        let mapped = ranges.iter().filter_map(|range| {
            let (bytes, size) = (range["bytes"].as_u64()?, range["size"].as_u64()?);
            Some(Mapped { va: number(&range["va"])?, size, bytes })
        });
        Ok(mapped.collect())
    }

    /// Where it says that these addresses go, of an image that lacks something: `None` for what it
    /// does not know.
    pub fn translate_in_part(
        &self,
        core: &Path,
        view: &[String],
        addresses: &[u64],
    ) -> Result<Vec<Option<Option<u64>>>> {
        let it = Self { program: self.program.clone(), partly: true, ..*self };
        let answers = it.answers(core, view, addresses)?;
        let known = |answer: &Value| answer["state"] != "unknown";
        Ok(answers.iter().map(|it| known(it).then(|| number(&it["pa"]))).collect())
    }

    /// The bytes at an address.
    pub fn read(&self, core: &Path, view: &[String], at: u64, bytes: usize) -> Result<Vec<u8>> {
        let words = [
            "read".to_owned(),
            core.display().to_string(),
            format!("{at:#x}"),
            bytes.to_string(),
            "--out=-".to_owned(),
        ];
        let run = cmd(&self.program, words.into_iter().chain(view.iter().cloned()));
        Ok(run.stderr_capture().stdout_capture().run().context("ptdump read")?.stdout)
    }

    fn answers(&self, core: &Path, view: &[String], addresses: &[u64]) -> Result<Vec<Value>> {
        let input: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
        let command = [&["translate", "-"], self.judged].concat();
        let answers = self.json(core, view, &command, input)?;
        if answers.len() != addresses.len() {
            bail!("{} answers for {} addresses", answers.len(), addresses.len());
        }
        Ok(answers)
    }

    /// Where it says that these addresses go.
    pub fn translate(
        &self,
        core: &Path,
        view: &[String],
        addresses: &[u64],
    ) -> Result<Vec<Option<u64>>> {
        let answers = self.answers(core, view, addresses)?;
        let pairs = answers.iter().zip(addresses);
        pairs
            .map(|(answer, address)| {
                match (number(&answer["va"]), &answer["pa"], &answer["fault"]) {
                    (Some(va), Value::Null, Value::String(_)) if va == *address => Ok(None),
                    (Some(va), pa @ Value::String(_), Value::Null) if va == *address => {
                        Ok(number(pa))
                    }
                    _ => bail!("the answer for {address:#x} is {answer}"),
                }
            })
            .collect()
    }
}

/// A number as JSON has it.
pub fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}
