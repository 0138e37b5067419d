use std::time::Duration;

use clap::{Args, Subcommand};

/// `espalier token ...`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it; it is shown this once.
    Create(CreateArgs),
    /// List the tokens.
    List,
    /// Make the coordinator forget a token: the next call with it is refused.
    Revoke {
        /// The token's name.
        name: String,
    },
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Who has it: a person, a machine, a pipeline; 1 to 63 of a-z, 0-9, `-` and `.`.
    #[arg(long)]
    pub name: String,
    /// What it allows: read, write, admin, jobs or worker, a colon, and a name or its beginning and `*`, such as
    /// write:team-a-*; may be given again.
    #[arg(long = "scope", required = true, value_name = "VERB:NAME")]
    pub scopes: Vec<String>,
    /// It ends after this long, such as 12h or 90d; never if not given.
    #[arg(long, value_name = "DURATION", value_parser = super::parse_duration)]
    pub expires: Option<Duration>,
}
