/** Ports: what is said when one can't be had. */
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { expect, it, onTestFinished } from "vitest";
import { findFreePort, requireFreePort } from "../../../infra/launch/ports.ts";

const knobs = { portKnob: "COLDPATH_EDGE_PORT", hostKnob: "COLDPATH_EDGE_HOST" };

it("finds a port that can be listened on", async () => {
  const port = await findFreePort();
  expect(port).toBeGreaterThan(1_023);
  await expect(requireFreePort({ host: "127.0.0.1", port, ...knobs })).resolves.toBeUndefined();
});

it("names the knob of a port that is taken", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  await expect(requireFreePort({ host: "127.0.0.1", port, ...knobs })).rejects.toThrow(
    `port ${port} on 127.0.0.1 is in use: set COLDPATH_EDGE_PORT to another one, or stop what uses it`,
  );
});

it("names the knob of an address that is not this machine's", async () => {
  // TEST-NET-1 of RFC 5737: no machine has it.
  await expect(requireFreePort({ host: "192.0.2.1", port: await findFreePort(), ...knobs })).rejects.toThrow(
    "nothing can listen on 192.0.2.1 (EADDRNOTAVAIL): set COLDPATH_EDGE_HOST to an address of this machine",
  );
});
