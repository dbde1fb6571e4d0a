/** @type {import("jest").Config} */
module.exports = {
  testEnvironment: "node",
  testMatch: ["<rootDir>/tests/**/*.test.ts"],
  // The playbook runs this one with ts-node: it is a program, not a Jest suite.
  testPathIgnorePatterns: ["/node_modules/", "cost-metering\\.test\\.ts$"],
  transform: { "\\.ts$": ["ts-jest", { tsconfig: "<rootDir>/tsconfig.json" }] },
  // A loaded machine is slow; a hang is still bounded by run.py.
  testTimeout: 30_000,
  setupFilesAfterEnv: ["<rootDir>/support/record.ts"],
};
