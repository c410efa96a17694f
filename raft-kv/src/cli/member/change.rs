//! `raft-kv member add`, `remove` and the others that change the members.

use super::{ChangeArgs, Output, in_line, wait};
use crate::api::{ChangeBody, ChangedBody, MemberChange, MembersBody};
use crate::cli::Failure;
use crate::client::ClientError;

/// Makes the changes the cluster's intent, and waits until they are carried out.
pub(super) async fn run(
    changes: Vec<MemberChange>,
    unchecked: bool,
    how: ChangeArgs,
    output: Output,
) -> Result<(), Failure> {
    let client = how.client.client()?;
    // Also tells where the members are that are there when those named have gone.
    let before = client.members(false).await?;
    let body = ChangeBody { changes, unchecked };
    let answer = client.change_members(&body).await;
    if how.no_wait {
        return intended(answer?, output);
    }
    let wait = wait::Wait { args: &how, before: &before, changes: &body.changes, output };
    let after = match answer {
        Ok(ChangedBody { index, .. }) => wait.carried_out(index).await?,
        Err(ClientError::Unknown(message)) => wait.found_out(message).await?,
        Err(error) => return Err(error.into()),
    };
    done(&after, output)
}

/// Gives up the change that is under way, and waits until nothing of it is.
pub(super) async fn cancel(how: ChangeArgs, output: Output) -> Result<(), Failure> {
    let client = how.client.client()?;
    let before = client.members(false).await?;
    let answer = client.give_up_change().await?;
    if how.no_wait {
        return intended(answer, output);
    }
    let wait = wait::Wait { args: &how, before: &before, changes: &[], output };
    done(&wait.carried_out(answer.index).await?, output)
}

fn intended(answer: ChangedBody, output: Output) -> Result<(), Failure> {
    let text = if answer.changed {
        "OK the cluster carries it out: see `raft-kv member list`"
    } else {
        "OK there is nothing to change"
    };
    output.result(text, &answer)
}

fn done(after: &MembersBody, output: Output) -> Result<(), Failure> {
    output.result(&format!("OK {}", in_line(after)), after)
}
