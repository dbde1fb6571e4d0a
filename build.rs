//! Writes the tables of OpenAI's tokenizers, as the crate `bpe-openai` has them, for `src/tokenizer`: what the crate itself has
//! loaded it keeps for as long as the process lives.

use std::{env, error::Error, fs, path::PathBuf};

use serde::Serialize;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    for (name, tokenizer) in [("cl100k_base", bpe_openai::cl100k_base()), ("o200k_base", bpe_openai::o200k_base())] {
        let mut tables = Vec::new();
        tokenizer.bpe.serialize(&mut rmp_serde::Serializer::new(&mut tables))?;
        // Half the size: what is read of the executable stays in memory for as long as the system has room for it.
        fs::write(folder.join(format!("{name}.dict.zst")), zstd::encode_all(&tables[..], 9)?)?;
    }
    Ok(())
}
