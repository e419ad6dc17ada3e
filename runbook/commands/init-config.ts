/** Text of the configuration that `init` writes: small, commented, everything in it works. Pure. */

export interface FirstConfig {
  readonly group: string;
  readonly volumes: readonly { readonly name: string; readonly size: string }[];
  readonly limit: string;
  /** null: both sites on this machine. */
  readonly hosts: { readonly primary: string | null; readonly dr: string | null };
}

interface Ports {
  readonly nbd: number;
  readonly gateway: number;
}

export function renderFirstConfig(config: FirstConfig): string {
  // On one machine the sites need different ports; on two hosts the same are easier to remember.
  const together = config.hosts.primary === null;
  const primary: Ports = { nbd: 10_809, gateway: 7_700 };
  const dr: Ports = together ? { nbd: 10_819, gateway: 7_701 } : primary;
  const volumes = config.volumes
    .map(({ name, size }) => `      ${yamlKey(name)}: { size: ${size} }\n`)
    .join("");
  return `# Two sites that protect each other's groups. The file is the same at both; relative paths are relative to it.
# Every key: config/two-hosts.yaml in the source. Check changes with: splitsite config check
version: 1

sites:
${siteText("primary", config.hosts.primary, primary)}${siteText("dr", config.hosts.dr, dr)}
groups:
  ${yamlKey(config.group)}:
    home: primary          # matters only when the group is first created
    standby: dr
    volumes:
${volumes}    protection:
      durability: flush    # an answered FLUSH survives power loss; \`write\`: every answered write does
      rpo: { age: 15s }    # \`at-risk\` when the standby is further behind than this

links:
  - between: [primary, dr]
    limit: ${config.limit}
`;
}

function siteText(name: string, host: string | null, ports: Ports): string {
  const bracketed = host?.includes(":") ? `[${host}]` : host;
  // On hosts of their own the data goes where services keep it, and not beside the configuration.
  const folder = host === null ? `./data/${name}` : `/var/lib/splitsite/${name}`;
  const listen = host === null ? `127.0.0.1:${ports.gateway}` : `0.0.0.0:${ports.gateway}`;
  return `  ${name}:
    dataDir: ${folder}
    tls: { ca: tls/ca.pem, cert: tls/${name}.pem, key: tls/${name}.key }
    admin: unix:${folder}/admin.sock
    agent:
      nbd:                 # clients on this host; for others listen on its address with tls: require and name the clients
        listen: ["127.0.0.1:${ports.nbd}"]
        tls: off
      journal: { maxBytes: 8GiB, reserve: 512MiB }
    gateway:
      listen: "${listen}"
      url: "https://${bracketed ?? "127.0.0.1"}:${ports.gateway}"
      intake: { maxBytes: 8GiB, reserve: 512MiB }
`;
}

/** Names such as \`10\` or \`null\` are legal here but something else in YAML. */
function yamlKey(name: string): string {
  return /^[a-z][a-z0-9_-]*$/.test(name) && !["null", "true", "false"].includes(name) ? name : `"${name}"`;
}
