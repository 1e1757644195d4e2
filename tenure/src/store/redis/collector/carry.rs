//! Which calls share a command, and which commands a write.
//!
//! A server takes fifty calls in one command. A node of a cluster takes only those of one slot, so there the calls that
//! are ready together go as a command for each slot, and all of them in one write.

use std::collections::HashMap;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};

use super::{Shared, UnderWay, is_noscript};
use crate::error::Result;
use crate::store::redis::script::{self, BATCH, Call, Dialect};
use crate::store::redis::slots::slot_of;
use crate::store::redis::transport::Transport;

impl<T: Transport> Shared<T> {
    /// How many calls may be carried together.
    pub(super) fn most(&self) -> usize {
        match self.dialect {
            Dialect::Server => BATCH,
            // As many commands as there are slots among them, in one write.
            Dialect::Shard => 10 * BATCH,
        }
    }

    pub(super) async fn carry_one(&self, call: Call) -> Result<Value> {
        self.command(&script::command_in(self.dialect, &[call])).await
    }

    /// Sends the calls in as few commands as may be, and those in one write.
    pub(super) async fn carry(&self, calls: &[Call]) -> Vec<Result<Value>> {
        let groups = self.groups(calls);
        let command = |group: &Vec<usize>| {
            let calls: Vec<&Call> = group.iter().map(|&n| &calls[n]).collect();
            script::command_in(self.dialect, &calls)
        };
        let commands: Vec<Cmd> = groups.iter().map(command).collect();
        let values = match self.commands(&commands).await {
            Ok(values) => values,
            Err(error) => return vec![Err(error); calls.len()],
        };
        let mut answers: Vec<Option<Result<Value>>> = calls.iter().map(|_| None).collect();
        for (group, value) in groups.into_iter().zip(values) {
            let group_is_one = group.len() == 1;
            match value.map(|value| script::replies(group.len(), value)) {
                Ok(Ok(values)) => {
                    let settled = |(n, value): &(usize, Value)| group_is_one || !calls[*n].goes_alone(value);
                    let settled = group.into_iter().zip(values).filter(settled);
                    settled.for_each(|(n, value)| answers[n] = Some(Ok(value)));
                }
                Ok(Err(value)) if is_redirect(&value) => {
                    group.into_iter().for_each(|n| answers[n] = Some(Ok(value.clone())));
                }
                // Each is asked for again alone.
                Ok(Err(_)) => {}
                Err(error) => group.into_iter().for_each(|n| answers[n] = Some(Err(error.clone()))),
            }
        }
        join_all(answers.into_iter().zip(calls).map(async |(answer, call)| match answer {
            Some(answer) => answer,
            None => self.command(&script::command_in(self.dialect, &[call])).await,
        }))
        .await
    }

    /// Which calls can share a command, by their places, in their order.
    fn groups(&self, calls: &[Call]) -> Vec<Vec<usize>> {
        if self.dialect == Dialect::Server {
            return vec![(0..calls.len()).collect()];
        }
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut open: HashMap<u16, usize> = HashMap::new();
        for (n, call) in calls.iter().enumerate() {
            let group = open.entry(slot_of(call.key())).or_insert(groups.len());
            if groups.get(*group).is_none_or(|group| group.len() == BATCH) {
                *group = groups.len();
                groups.push(Vec::new());
            }
            groups[*group].push(n);
        }
        groups
    }

    /// Sends commands in one write.
    async fn commands(&self, commands: &[Cmd]) -> Result<Vec<Result<Value>>> {
        if let [command] = commands {
            return Ok(vec![Ok(self.command(command).await?)]);
        }
        let values = {
            let _under_way = UnderWay::begin(&self.under_way);
            self.transport.many(&pipeline(&[], commands)).await?
        };
        if values.iter().any(is_noscript) {
            // Whether it helps is told by the commands that follow.
            let _ = self.transport.many(&pipeline(&self.scripts, &[])).await;
        }
        let settled = values.into_iter().zip(commands).map(async |(value, command)| match is_noscript(&value) {
            false => Ok(value),
            true => self.command(command).await,
        });
        Ok(join_all(settled).await)
    }
}

pub(super) fn pipeline(before: &[Cmd], commands: &[Cmd]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(before.len() + commands.len());
    before.iter().chain(commands).for_each(|command| _ = pipeline.add_command(command.clone()));
    pipeline
}

/// Whether another node is to be asked, which holds for all the calls of a command.
fn is_redirect(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"))
}
