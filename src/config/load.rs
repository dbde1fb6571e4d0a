//! From a file and the environment to a [`Config`].

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Fault, overlay, raw, resolve, shape,
    yaml::{Node, Yaml},
};

/// The largest file that is read, in bytes: larger than any real configuration, and small enough for memory.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads an environment variable. An empty value and text that is not UTF-8 count as unset.
pub type Env = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where a configuration comes from. Keep this value for reloads.
#[derive(Clone)]
pub struct Source {
    /// The YAML file; without a file the configuration consists of the defaults and the environment.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Arc<Env>,
    /// For `--simulate`: keys are not read (nothing needs one), so none can be missing.
    pub simulate: bool,
}

impl Source {
    /// A file and the environment of this process.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, env: Arc::new(process_env), simulate: false }
    }
}

/// The environment of this process.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A configuration without faults.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Ready to use.
    pub config: Config,
    /// Settings that are allowed but probably a mistake: log each once.
    pub warnings: Vec<Fault>,
    /// The files that were read (configuration, keys, prices, certificate authorities): after a change of one of them the
    /// configuration should be loaded again.
    pub files: Vec<PathBuf>,
    /// The text of the configuration file; empty if there is none. A reload compares it with the text in force.
    pub text: FileText,
    effective: raw::File,
}

impl Loaded {
    /// The configuration in effect as YAML, with every key. The text is valid as input, except that each secret that is
    /// written in the file itself is shown as `[redacted]`.
    pub fn to_yaml(&self) -> String {
        // A tree with text keys always serialises; `Null` would print as an empty file.
        super::emit::yaml(&serde_json::to_value(&self.effective).unwrap_or_default())
    }
}

impl Config {
    /// Reads file and environment.
    ///
    /// # Errors
    /// All faults at once, in the order of the file. A file without any key is a fault: an interrupted write leaves such a file,
    /// which would turn off every token and budget.
    pub fn load(source: &Source) -> Result<Loaded, Vec<Fault>> {
        let text = match &source.file {
            None => String::new(),
            Some(file) => read(file)
                .and_then(|text| if is_empty(&text) { Err(EMPTY.to_owned()) } else { Ok(text) })
                .map_err(|message| vec![Fault { line: None, path: String::new(), message }])?,
        };
        let mut loaded = Self::load_text(&text, source)?;
        loaded.files.extend(source.file.clone());
        Ok(loaded)
    }

    /// Like [`Self::load`], from text. Relative paths in the text start at the directory of `source.file`, which is not read.
    pub fn load_text(text: &str, source: &Source) -> Result<Loaded, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut tree = Node::parse(text, &mut faults).map_err(|fatal| {
            faults.push(fatal);
            std::mem::take(&mut faults)
        })?;
        let named = resolve::named_providers(&tree);
        let schema = shape::schema();
        shape::check(&mut tree, &schema, &mut faults);
        let mut file: raw::File = match serde_json::from_value(tree.to_json()) {
            Ok(file) => file,
            // Reached only if the schema accepts a value that serde refuses.
            Err(error) => {
                let message = format!("cannot be read: {error}");
                faults.push(Fault { line: None, path: String::new(), message });
                return Err(faults);
            }
        };
        let env = |name: &str| (source.env)(name).filter(|value| !value.trim().is_empty());
        overlay::apply(&mut file, &env, &mut faults);
        let base_dir = source.file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
        let context = resolve::Context { tree: &tree, env: &env, simulate: source.simulate, base_dir, named };
        let resolved = resolve::resolve(&file, context, faults)?;
        let resolve::Resolved { config, warnings, files } = resolved;
        Ok(Loaded { config, warnings, files, text: FileText(text.into()), effective: file })
    }
}

/// The message for a configuration file without any key.
const EMPTY: &str = "is empty; a file must have at least one key. To run on the defaults and the environment, leave out the \
                     file (no `--config`, no `CAN_CONFIG`)";

/// True for text that contains only white space, comments, `null` or `{}`. Text that cannot be parsed is not empty.
fn is_empty(text: &str) -> bool {
    matches!(Node::parse(text, &mut Vec::new()), Ok(Node { value: Yaml::Map(keys), .. }) if keys.is_empty())
}

/// The text of a configuration file. It may contain secrets, so it is only compared and never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FileText(Arc<str>);

impl FileText {
    /// If `found` looks like a truncated copy of this text, which is in force (after an interrupted write, or on a full disk):
    /// the reason. `None` for any other text.
    pub fn cut_off(&self, found: &Self) -> Option<String> {
        let (in_force, found) = (&*self.0, &*found.0);
        if in_force.len() > found.len() && in_force.starts_with(found) {
            let (part, whole) = (found.len(), in_force.len());
            return Some(format!(
                "is truncated: it has only the first {part} of the {whole} bytes that are in force; SIGHUP applies it as it is"
            ));
        }
        let lost = in_force.ends_with('\n') && !found.ends_with('\n');
        lost.then(|| {
            "is truncated: its last line has no line break, which the file in force has; SIGHUP applies it as it is"
                .into()
        })
    }
}

impl fmt::Debug for FileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

fn read(file: &Path) -> Result<String, String> {
    let size = fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes: is it the right file?"));
    }
    let bytes = fs::read(file).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        format!("is not UTF-8 text (line {line})")
    })
}
