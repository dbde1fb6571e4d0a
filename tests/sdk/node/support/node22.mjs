// Runs a tool of this package (jest, ts-node) with Node 22 or newer, which the current `openai` package asks for.
// The machine's own Node serves when it is new enough; else the one that the npm package `node-<os>-<cpu>` carries.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const modules = join(dirname(dirname(fileURLToPath(import.meta.url))), "node_modules");
const carried = join(modules, `node-${process.platform}-${process.arch}`, "bin", "node");
const ownIsNewEnough = Number(process.versions.node.split(".")[0]) >= 22;
const node = ownIsNewEnough ? process.execPath : carried;
if (!existsSync(node)) {
  console.error(`Node 22 or newer is needed; this is ${process.version} and npm did not install ${carried}.`);
  console.error("Run `npm ci` in tests/sdk/node (without --omit=optional), or install Node 22.");
  process.exit(2);
}

const tools = { jest: "jest/bin/jest.js", "ts-node": "ts-node/dist/bin.js" };
const [tool, ...rest] = process.argv.slice(2);
const result = spawnSync(node, [join(modules, tools[tool]), ...rest], { stdio: "inherit" });
process.exit(result.status ?? 1);
