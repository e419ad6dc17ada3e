/**
 * The program behind `splitsite` (see splitsite.cts): hands the command line to the table of commands and ends with
 * the contract's exit code. Nothing else may call process.exit, except `run` on its way down.
 */
import { runProgram } from "./program.ts";
import { processTerminal } from "./terminal.ts";

process.exitCode = await runProgram(process.argv.slice(2), processTerminal(process.env));
