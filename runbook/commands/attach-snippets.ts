/**
 * The snippets of `attach`, one per client. Pure. Each asks for reconnection, so that a restart of the service makes
 * requests wait and not fail, and uses writeback semantics only where the client flushes.
 */
import type { Address } from "../../runtime/settings/types.ts";

export const attachKinds = ["qemu", "libvirt", "xen", "nbd-client", "windows"] as const;
export type AttachKind = (typeof attachKinds)[number];

export interface AttachTarget {
  readonly exportName: string;
  /** Legal everywhere as a device id. */
  readonly diskName: string;
  readonly address: Address;
  readonly tls: boolean;
  /** Certificate name of the client; its folder as `certs issue --client` writes it. */
  readonly client: string;
}

/** Requests wait this long for the service to come back, seconds. */
const reconnectSeconds = 120;

export function attachSnippet(kind: AttachKind, target: AttachTarget): string {
  return writers[kind](target);
}

const writers: Readonly<Record<AttachKind, (target: AttachTarget) => string>> = {
  qemu,
  libvirt,
  xen,
  "nbd-client": nbdClient,
  windows,
};

function folder(target: AttachTarget): string {
  return `/etc/splitsite/tls/clients/${target.client}`;
}

function tlsNote(target: AttachTarget): string {
  return target.tls
    ? `# certificate: splitsite certs issue --client ${target.client}, copied to ${folder(target)}\n`
    : "";
}

function qemu(target: AttachTarget): string {
  const id = target.diskName;
  const server =
    target.address.kind === "unix"
      ? `server.type=unix,server.path=${target.address.path}`
      : `server.type=inet,server.host=${target.address.host},server.port=${target.address.port}`;
  const object = target.tls
    ? `  -object tls-creds-x509,id=${id}-tls,dir=${folder(target)},endpoint=client \\\n`
    : "";
  const credentials = target.tls ? `,tls-creds=${id}-tls` : "";
  return `${tlsNote(target)}${object}  -blockdev driver=nbd,node-name=${id},${server},export=${target.exportName},reconnect-delay=${reconnectSeconds}${credentials},cache.direct=on,discard=unmap,detect-zeroes=unmap \\
  -device virtio-blk-pci,drive=${id},id=${id}-disk,werror=stop,rerror=stop
`;
}

function libvirt(target: AttachTarget): string {
  const host =
    target.address.kind === "unix"
      ? `<host transport='unix' socket='${target.address.path}'/>`
      : `<host name='${target.address.host}' port='${target.address.port}'/>`;
  const note = target.tls
    ? `<!-- TLS: nbd_tls_x509_cert_dir = "${folder(target)}" in /etc/libvirt/qemu.conf -->\n`
    : "";
  return `${note}<disk type='network' device='disk'>
  <driver name='qemu' type='raw' cache='none' io='native' discard='unmap' error_policy='stop'/>
  <source protocol='nbd' name='${target.exportName}'${target.tls ? " tls='yes'" : ""}>
    ${host}
    <reconnect delay='${reconnectSeconds}'/>
  </source>
  <target dev='vdb' bus='virtio'/>
</disk>
<!-- <reconnect> needs libvirt 9.1 or newer; leave it out on older ones. -->
`;
}

function nbdClientLine(target: AttachTarget): string {
  const where =
    target.address.kind === "unix"
      ? `-unix ${target.address.path}`
      : `${target.address.host} ${target.address.port}`;
  const tls = target.tls
    ? ` -cacertfile ${folder(target)}/ca-cert.pem -certfile ${folder(target)}/client-cert.pem -keyfile ${folder(target)}/client-key.pem`
    : "";
  return `nbd-client ${where} /dev/nbd0 -name ${target.exportName} -persist -timeout ${reconnectSeconds}${tls}`;
}

function nbdClient(target: AttachTarget): string {
  return `${tlsNote(target)}modprobe nbd
${nbdClientLine(target)}
# /dev/nbd0 is now the disk. To let go of it: nbd-client -d /dev/nbd0
# The kernel's reconnection is fragile: not for a root file system.
`;
}

function xen(target: AttachTarget): string {
  return `${tlsNote(target)}# in dom0:
modprobe nbd
${nbdClientLine(target)}
# in the guest's configuration:
disk = [ 'format=raw, vdev=xvdb, access=rw, target=/dev/nbd0' ]
`;
}

function windows(target: AttachTarget): string {
  const id = target.diskName;
  return `# Windows and Hyper-V, way 1: a Linux host hands the disk on by iSCSI.
# on that Linux host:
${tlsNote(target)}modprobe nbd
${nbdClientLine(target)}
targetcli /backstores/block create name=${id} dev=/dev/nbd0
targetcli /iscsi create
# then give the LUN to the initiator and connect to it from Windows.
${
  target.address.kind === "tcp" && !target.tls
    ? `
# Way 2: the WNBD driver on Windows Server 2019 or newer:
wnbd-client.exe map ${id} ${target.address.host} --port ${target.address.port} --export-name ${target.exportName}
`
    : ""
}`;
}
