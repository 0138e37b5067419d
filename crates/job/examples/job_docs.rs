//! Writes the job file's reference and schema into docs/.

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let schema = serde_json::to_string_pretty(&espalier_job::schema())? + "\n";
    fs::write(docs.join("job.schema.json"), schema)?;
    fs::write(docs.join("job.md"), espalier_job::reference())?;
    Ok(())
}
