/** A certificate for an API server on 127.0.0.1. Needs openssl. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

export interface Certificate {
  keyFile: string;
  certificateFile: string;
}

/** @param folder what is there already is used again */
export function certificateIn(folder: string): Certificate {
  const keyFile = join(folder, 'api.key');
  const certificateFile = join(folder, 'api.crt');
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', keyFile];
  const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2'];
  if (!existsSync(certificateFile))
    execFileSync('openssl', ['req', '-x509', ...key, '-out', certificateFile, ...subject], {
      stdio: 'ignore',
    });
  return { keyFile, certificateFile };
}
