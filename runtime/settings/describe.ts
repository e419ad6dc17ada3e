/** Settings back in the shape of the file, everything said: what `config show` prints and the loader takes again. Pure. */
import { formatAddress } from "./address.ts";
import type { Settings, SiteSettings } from "./types.ts";
import { formatDurationExact, formatRateExact, formatSizeExact } from "./units.ts";

export function describeSettings(settings: Settings): unknown {
  return {
    version: 1,
    sites: Object.fromEntries(settings.sites.map((site) => [site.name, describeSite(site)])),
    groups: Object.fromEntries(
      settings.groups.map((group) => [
        group.name,
        {
          home: group.home,
          standby: group.standby,
          volumes: Object.fromEntries(
            group.volumes.map(({ name, sizeBytes, image, standbyImage }) => [
              name,
              {
                size: formatSizeExact(sizeBytes),
                ...(image === null ? {} : { image }),
                ...(standbyImage === null ? {} : { standbyImage }),
              },
            ]),
          ),
          protection: {
            level: "async",
            durability: group.durability,
            rpo: {
              ...(group.rpo.ageMs === null ? {} : { age: formatDurationExact(group.rpo.ageMs) }),
              ...(group.rpo.bytes === null ? {} : { bytes: formatSizeExact(group.rpo.bytes) }),
              onBreach: "alert",
            },
            onLinkLoss: "continue",
            overflow: group.overflow,
            history: {
              window: group.history.windowMs === 0 ? "off" : formatDurationExact(group.history.windowMs),
              maxBytes: formatSizeExact(group.history.bytesMax),
            },
            onMismatch: group.scan.onMismatch,
            scan: {
              rate: formatRateExact(group.scan.bytesPerSecond),
              digest: group.scan.digestsPoints === true ? "on" : "off",
            },
          },
          schedule: group.scan.verifyCron === null ? {} : { verify: group.scan.verifyCron },
        },
      ]),
    ),
    links: settings.links.map((link) => ({
      between: [...link.between],
      limit: formatRateExact(link.limitBytesPerSecond),
      windows: link.windows.map(({ cron, limitBytesPerSecond }) => ({
        cron,
        limit: formatRateExact(limitBytesPerSecond),
      })),
      connections: link.connections,
      codec: link.codec,
      collect: formatDurationExact(link.collectMs),
    })),
    witness: { kind: "none" },
  };
}

function describeQuota(quota: { readonly maxBytes: number; readonly reserveBytes: number }) {
  return { maxBytes: formatSizeExact(quota.maxBytes), reserve: formatSizeExact(quota.reserveBytes) };
}

function describeSite(site: SiteSettings): unknown {
  const { agent, gateway } = site;
  return {
    dataDir: site.dataDir,
    tls: site.tls,
    admin: formatAddress(site.admin),
    ...(agent === null
      ? {}
      : {
          agent: {
            nbd: {
              listen: agent.nbd.listen.map(formatAddress),
              tls: agent.nbd.tls,
              clients: agent.nbd.clients,
            },
            journal: describeQuota(agent.journal),
          },
        }),
    ...(gateway === null
      ? {}
      : {
          gateway: {
            listen: formatAddress(gateway.listen),
            url: gateway.url,
            intake: describeQuota(gateway.intake),
          },
        }),
  };
}
