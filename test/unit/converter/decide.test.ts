/** The fetch's rules: which files, what is left, what an error means, what the environment may say. */
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { modelFolder } from '#proto/names.ts';
import {
  type Asked,
  FetchFailure,
  judgeError,
  judgeStatus,
  parseRetryAfter,
  retryAfterMsMax,
  retryDelayMs,
} from '../../../converter/decide/failures.ts';
import { chooseFiles, filesMax, type ListedFile, pathRefusal } from '../../../converter/decide/files.ts';
import { makeManifest, parseManifest } from '../../../converter/decide/manifest.ts';
import { asidePath, modelOnItsWay, placesOf } from '../../../converter/decide/places.ts';
import { ownReserveBytes, remaining, requireSpace } from '../../../converter/decide/remaining.ts';
import { readSettings } from '../../../converter/decide/settings.ts';

const oid = 'a'.repeat(40);
const sha = 'b'.repeat(64);
const listed = (...paths: string[]): ListedFile[] =>
  paths.map((path) => ({ path, size: 10, oid, lfsOid: path.endsWith('.safetensors') ? sha : null }));
const chosen = (...paths: string[]) => chooseFiles(listed(...paths), 'org/m').map(({ path }) => path);

/** The reason of what a call throws. */
function reasonOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    if (error instanceof FetchFailure) return error.reason;
    throw error;
  }
  return 'nothing thrown';
}

describe('of a repository', () => {
  it.each([
    [
      'safetensors win over pickles and foreign formats',
      [
        'config.json',
        'model.safetensors',
        'pytorch_model.bin',
        'tf_model.h5',
        'flax_model.msgpack',
        'model.onnx',
        'x.gguf',
      ],
      ['config.json', 'model.safetensors'],
    ],
    [
      "other programs' folders are left out",
      [
        'model-00001-of-00002.safetensors',
        'model.safetensors.index.json',
        'original/consolidated.00.pth',
        'original/params.json',
        'onnx/model.onnx',
        'metal/model.bin',
      ],
      ['model-00001-of-00002.safetensors', 'model.safetensors.index.json'],
    ],
    [
      'tokenizer, templates, code and licence stay',
      [
        'LICENSE',
        'chat_template.jinja',
        'generation_config.json',
        'merges.txt',
        'model.safetensors',
        'modeling_x.py',
        'spiece.model',
        'tekken.json',
      ],
      [
        'LICENSE',
        'chat_template.jinja',
        'generation_config.json',
        'merges.txt',
        'model.safetensors',
        'modeling_x.py',
        'spiece.model',
        'tekken.json',
      ],
    ],
    [
      'pickles alone are taken',
      ['config.json', 'pytorch_model.bin', 'model.onnx'],
      ['config.json', 'pytorch_model.bin'],
    ],
    [
      'a pickle in a folder without safetensors is a part of its own',
      ['model.safetensors', '1_Pooling/config.json', '2_Dense/pytorch_model.bin'],
      ['1_Pooling/config.json', '2_Dense/pytorch_model.bin', 'model.safetensors'],
    ],
    [
      'the small heads of bge-m3 stay beside its safetensors',
      ['model.safetensors', 'colbert_linear.pt', 'sparse_linear.pt', 'training_args.bin'],
      ['colbert_linear.pt', 'model.safetensors', 'sparse_linear.pt'],
    ],
    ['a GGUF repository keeps its GGUF', ['model.gguf', 'README.md'], ['README.md', 'model.gguf']],
    [
      'a GGUF in parts, and its projector, are one',
      ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf', 'mmproj-m.gguf'],
      ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf', 'mmproj-m.gguf'],
    ],
    [
      "Mistral's own copy of the weights is left out",
      [
        'config.json',
        'consolidated-00001-of-00002.safetensors',
        'consolidated.safetensors',
        'consolidated.safetensors.index.json',
        'model-00001-of-00001.safetensors',
        'model.safetensors.index.json',
        'params.json',
        'tokenizer.json',
      ],
      [
        'config.json',
        'model-00001-of-00001.safetensors',
        'model.safetensors.index.json',
        'params.json',
        'tokenizer.json',
      ],
    ],
    ...[
      ['config.json', 'consolidated.safetensors', 'params.json', 'tokenizer.json'],
      ['config.json', 'consolidated.safetensors', 'model.safetensors', 'params.json', 'tekken.json'],
      ['consolidated.safetensors', 'model.safetensors', 'params.json', 'tokenizer.json'],
    ].map((paths): [string, string[], string[]] => [
      `Mistral's own copy stays where the rest does not do without: ${paths}`,
      paths,
      paths,
    ]),
    [
      'pictures and git files are not needed',
      ['.gitattributes', 'a.png', 'model.safetensors'],
      ['model.safetensors'],
    ],
  ])('%s', (_, paths, expected) => {
    expect(chosen(...paths)).toEqual(expected);
  });

  it.each([
    ['without weights', () => chosen('config.json', 'README.md'), 'NoWeights'],
    ['with only ONNX weights', () => chosen('config.json', 'onnx/model.onnx'), 'NoWeights'],
    [
      'with several GGUF, of which nobody chose one',
      () => chosen('a.Q4.gguf', 'a.Q8.gguf'),
      'NotConvertible',
    ],
    ['that lists a file twice', () => chosen('model.safetensors', 'a.txt', 'a.txt'), 'BadListing'],
    ['with a file where a folder must be', () => chosen('model.safetensors', 'a', 'a/b.txt'), 'BadListing'],
    ['with a path out of its folder', () => chosen('model.safetensors', '../x.json'), 'BadListing'],
    [
      'with too many files',
      () => chosen('model.safetensors', ...Array.from({ length: filesMax }, (_, index) => `${index}.txt`)),
      'BadListing',
    ],
    [
      'with a file without a hash',
      () => chooseFiles([{ path: 'model.safetensors', size: 1, oid: null, lfsOid: null }], 'org/m'),
      'BadListing',
    ],
    [
      "with a large file whose only hash is its pointer's",
      () => chooseFiles([{ path: 'model.safetensors', size: 1, oid, lfsOid: '' }], 'org/m'),
      'BadListing',
    ],
    [
      'with a size that is none',
      () => chooseFiles([{ path: 'model.safetensors', size: -1, oid, lfsOid: sha }], 'org/m'),
      'BadListing',
    ],
  ])('one %s is refused', (_, call, reason) => {
    expect(reasonOf(call)).toBe(reason);
  });
});

it('the refusal of several GGUF names them and what to do', () => {
  expect(() => chosen('a.Q4.gguf', 'b/a.Q8.gguf', 'c.gguf', 'd.gguf')).toThrow(
    /4 GGUF.*a\.Q4\.gguf, b\/a\.Q8\.gguf, c\.gguf, ….*spec\.modelName.*safetensors/,
  );
});

describe('a path from the hub', () => {
  it.each([
    '',
    '/etc/passwd',
    '../x',
    'a/../b',
    './a',
    'a//b',
    'a/',
    'a\\b',
    'a\nb',
    'a\0b',
    '.greenthread.json',
    'x/.greenthread-y',
    'm.greenthread-part',
    'x'.repeat(201),
    'ab/'.repeat(400),
  ])('is refused: %j', (path) => {
    expect(pathRefusal(path)).not.toBeNull();
  });

  it.each(['config.json', '1_Pooling/config.json', 'a..b', 'Größe.txt', '.hidden', 'a b'])(
    'is taken: %j',
    (path) => {
      expect(pathRefusal(path)).toBeNull();
    },
  );
});

describe('what is left', () => {
  const wanted = chooseFiles(listed('config.json', 'model.safetensors', 'vocab.json'), 'org/m');

  it('counts finished files, parts, and parts that are too long', () => {
    const left = remaining(
      wanted,
      new Map([
        ['config.json', { finishedBytes: 10, partBytes: 0 }],
        ['model.safetensors', { finishedBytes: null, partBytes: 4 }],
        ['vocab.json', { finishedBytes: 9, partBytes: 11 }],
      ]),
    );
    expect(left.files.map(({ path }) => path)).toEqual(['model.safetensors', 'vocab.json']);
    expect(left).toMatchObject({ bytes: 16, haveBytes: 14, totalBytes: 30 });
  });

  describe('must fit on the disk beside what stays free', () => {
    const GiB = 2 ** 30;
    const room = { freeBytes: 5 * GiB, totalBytes: 100 * GiB, isNodeDisk: false };
    const require = (
      needs: { download?: number; form?: number },
      has: Partial<typeof room> = {},
      keepFreePercent = 11,
    ) => {
      const bytes = { downloadBytes: (needs.download ?? 0) * GiB, formBytes: (needs.form ?? 0) * GiB };
      return () => requireSpace(bytes, { ...room, ...has }, { modelsDir: '/mnt/models', keepFreePercent });
    };

    it.each([
      ['just so', require({ download: 5 }, { freeBytes: 5 * GiB + ownReserveBytes }), 'nothing thrown'],
      ['not quite', require({ download: 5 }, { freeBytes: 5 * GiB + ownReserveBytes - 1 }), 'NoSpace'],
      ['nothing, on a full disk', require({}, { freeBytes: 0, isNodeDisk: true }), 'nothing thrown'],
      ['with the second copy', require({ download: 2, form: 2 }), 'nothing thrown'],
      ['not with the second copy', require({ download: 3, form: 3 }), 'NoSpace'],
      [
        "on the kubelet's disk",
        require({ download: 5 }, { freeBytes: 16 * GiB, isNodeDisk: true }),
        'nothing thrown',
      ],
      [
        "below the kubelet's line",
        require({ download: 5 }, { freeBytes: 15 * GiB, isNodeDisk: true }),
        'NoSpace',
      ],
      [
        "below the kubelet's line, where it is at 1 %",
        require({ download: 5 }, { freeBytes: 15 * GiB, isNodeDisk: true }, 1),
        'nothing thrown',
      ],
      [
        "on the kubelet's small disk",
        require({ download: 1 }, {
          freeBytes: GiB + ownReserveBytes - 1,
          totalBytes: 2 ** 28,
          isNodeDisk: true,
        }),
        'NoSpace',
      ],
    ])('%s', (_, call, reason) => {
      expect(reasonOf(call)).toBe(reason);
    });

    it('else the message has the figures and what helps', () => {
      expect(require({ download: 5 }, { freeBytes: 4 * GiB })).toThrow(
        /^5\.1 GiB are needed under \/mnt\/models.*5\.0 GiB to download.*4\.0 GiB are free: make room .*storage\.modelsPath to a larger disk$/,
      );
      const both = require({ download: 5, form: 4 }, { freeBytes: 12 * GiB, isNodeDisk: true });
      expect(both).toThrow(/^20\.0 GiB .*4\.0 GiB for the gthread form.*11\.0 GiB.*kubelet/);
      expect(both).toThrow(/12\.0 GiB are free: .*spec\.loadFormat: auto/);
    });
  });
});

describe('a refusal of the hub', () => {
  const asked: Asked = { endpoint: 'https://hub', modelName: 'org/m', revision: 'v1', hasToken: false };
  const withToken = { ...asked, hasToken: true };
  it.each([
    [
      401,
      'GatedRepo',
      asked,
      'TokenNeeded',
      /licence at https:\/\/hub\/org\/m.*controller\.huggingFaceToken/,
    ],
    [403, 'GatedRepo', withToken, 'LicenceNotAccepted', /accept its licence/],
    [401, 'RepoNotFound', asked, 'NotFoundOrPrivate', /spec\.modelName.*controller\.huggingFaceToken/],
    [404, 'RepoNotFound', asked, 'ModelNotFound', /check spec\.modelName and spec\.revision$/],
    [401, null, withToken, 'TokenRefused', /not expired/],
    [403, null, withToken, 'TokenRefused', /controller\.huggingFaceToken/],
    [404, 'RevisionNotFound', asked, 'RevisionNotFound', /spec\.revision/],
    [404, 'RepoNotFound', withToken, 'ModelNotFound', /spec\.modelName.*may see it/],
    [404, 'EntryNotFound', asked, 'BadListing', /not there/],
    [451, null, asked, 'HubRefused', /451/],
  ])('with %i %s is final and says what to change', (status, errorCode, who, reason, text) => {
    const failure = judgeStatus({ status, errorCode, retryAfter: null, nowMs: 0 }, who);
    expect(failure).toMatchObject({ reason, retry: false });
    expect(failure.message).toMatch(text);
  });

  it.each([
    [429, 'RateLimited'],
    [500, 'HubUnavailable'],
    [503, 'HubUnavailable'],
    [408, 'HubUnavailable'],
  ])('with %i may pass: it is tried again after what the hub asks', (status, reason) => {
    expect(judgeStatus({ status, errorCode: null, retryAfter: '3', nowMs: 0 }, asked)).toMatchObject({
      reason,
      retry: true,
      afterMs: 3000,
    });
  });

  it.each([
    ['ENOSPC', 'NoSpace', false],
    ['EROFS', 'DiskFailed', false],
    ['ELOOP', 'DiskFailed', false],
    ['ECONNRESET', 'HubUnreachable', true],
    ['UND_ERR_BODY_TIMEOUT', 'HubUnreachable', true],
    [null, 'HubUnreachable', true],
  ])('or the system error %s means %s', (code, reason, retry) => {
    expect(judgeError({ code, text: 'it failed' }, asked)).toMatchObject({ reason, retry });
  });
});

describe('the pause before a next try', () => {
  it.each([
    [null, null],
    ['2', 2000],
    ['99999', retryAfterMsMax],
    ['Thu, 01 Jan 1970 00:00:10 GMT', 9000],
    ['Thu, 01 Jan 1970 00:00:00 GMT', 0],
    ['soon', null],
  ])('by Retry-After %s is %s ms', (header, ms) => {
    expect(parseRetryAfter(header, 1000)).toBe(ms);
  });

  it('doubles with jitter up to 30 s, and is never shorter than asked for', () => {
    expect([1, 2, 3, 20].map((failures) => retryDelayMs(failures, 500, 1, null))).toEqual([
      500, 1000, 2000, 30_000,
    ]);
    expect(retryDelayMs(1, 500, 0, null)).toBe(250);
    expect(retryDelayMs(1, 500, 0, 7000)).toBe(7000);
  });
});

describe('the environment', () => {
  const good = { MODEL_NAME: 'org/m' };

  it('has defaults for all but the model', () => {
    expect(readSettings(good)).toEqual({
      endpoint: 'https://huggingface.co',
      token: null,
      modelName: 'org/m',
      revision: 'main',
      modelsDir: '/mnt/models',
      keepFreePercent: 11,
    });
  });

  it.each([
    [{}, 'MODEL_NAME'],
    [{ MODEL_NAME: '../etc' }, 'MODEL_NAME'],
    [{ MODEL_NAME: 'a--b/c' }, 'MODEL_NAME'],
    [{ MODEL_NAME: 'a/b/c' }, 'MODEL_NAME'],
    [{ ...good, REVISION: '../x' }, 'REVISION'],
    [{ ...good, HF_ENDPOINT: 'file:///x' }, 'HF_ENDPOINT'],
    [{ ...good, HF_ENDPOINT: 'https://hub:port' }, 'HF_ENDPOINT'],
    [{ ...good, HF_ENDPOINT: 'https://hub?token=x' }, 'HF_ENDPOINT'],
    [{ ...good, MODELS_DIR: 'models' }, 'MODELS_DIR'],
    [{ ...good, KEEP_FREE_PERCENT: '-1' }, 'KEEP_FREE_PERCENT'],
    [{ ...good, KEEP_FREE_PERCENT: '0.1' }, 'KEEP_FREE_PERCENT'],
    [{ ...good, HF_TOKEN: 'hf_a\nb' }, 'HF_TOKEN'],
  ])('%j is refused and the variable named', (env, named) => {
    expect(() => readSettings(env)).toThrow(named);
  });

  it.each(['https://svc:S3cret@mirror/hub', 'http://S3cret@mirror', 'HTTPS://:S3cret@mirror'])(
    'refuses the credentials in %s, says where they belong, and repeats them nowhere',
    (endpoint) => {
      const call = () => readSettings({ ...good, HF_ENDPOINT: endpoint });
      expect(reasonOf(call)).toBe('BadSettings');
      expect(call).toThrow(/controller\.huggingFaceEndpoint.*controller\.huggingFaceSecret/);
      expect(call).not.toThrow(/S3cret/);
    },
  );

  it('decides the places, a revision with slashes included', () => {
    expect(placesOf('/mnt/models', 'org/m', 'refs/pr/1')).toEqual({
      model: '/mnt/models/org--m',
      incoming: '/mnt/models/.incoming/org--m',
      converting: '/mnt/models/.incoming/org--m.gthread',
      lock: '/mnt/models/.incoming/org--m.lock',
      ref: '/mnt/models/org--m/refs/refs%2Fpr%2F1',
    });
  });
});

describe('what is on its way', () => {
  const parts = ['incoming', 'converting', 'lock'] as const;
  const names = [
    'org/x',
    'org/x.gthread',
    'org/x.lock',
    'org/x.removed',
    'org/x.gthread.lock',
    'org/x.gthread.gthread',
  ];
  const all = names.flatMap((name) => {
    const places = placesOf('/m', name, 'main');
    return parts.map((part) => ({ name, part, path: places[part] }));
  });

  it('of models whose names end alike lies in places of their own', () => {
    const paths = [
      ...all.map(({ path }) => path),
      ...names.map((name) => asidePath('/m', modelFolder(name))),
    ];
    expect(new Set(paths).size).toBe(paths.length);
    expect(paths[0]).toBe('/m/.incoming/org--x');
  });

  it.each(all)('is known as the $part of $name again', ({ name, part, path }) => {
    expect(modelOnItsWay(basename(path))).toEqual({ folder: modelFolder(name), isLock: part === 'lock' });
  });
});

describe('a manifest', () => {
  const wanted = chooseFiles(listed('config.json', 'model.safetensors'), 'org/m');
  const source = { modelName: 'org/m', revision: 'main', commit: oid, fetchedAtMs: 0 };
  const manifest = makeManifest(source, wanted, new Map([['config.json', 'c'.repeat(64)]]));

  it('names every file with its sha256, and reads back', () => {
    expect(manifest).toMatchObject({ v: 1, bytes: 20, fetchedAt: '1970-01-01T00:00:00.000Z' });
    expect(manifest.files).toEqual([
      { path: 'config.json', bytes: 10, sha256: 'c'.repeat(64) },
      { path: 'model.safetensors', bytes: 10, sha256: sha },
    ]);
    expect(parseManifest(JSON.stringify({ ...manifest, later: true }))).toMatchObject(manifest);
  });

  it.each(['', 'null', '{}', '[]', '{"v":1,"commit":"x","bytes":1,"files":[{}]}'])('is none: %s', (text) => {
    expect(parseManifest(text)).toBeNull();
  });
});
