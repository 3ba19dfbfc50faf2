/** The Service of a Model: all its front doors, asleep ones included. */
import { labels, ports, serviceName } from '#proto/names.ts';
import { stamped } from '../difference.ts';
import { type Model, ownerOf } from '../kubernetes.ts';
import { rememberedBy } from '../remembered.ts';
import { partOf } from '../settings.ts';

export const modelLabels = (model: Model) => ({
  [labels.model]: model.metadata.name,
  [labels.partOf]: partOf,
  [labels.managedBy]: partOf,
});

const build = rememberedBy((model: Model) =>
  stamped({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: serviceName(model.metadata.name),
      namespace: model.metadata.namespace ?? '',
      labels: modelLabels(model),
      ownerReferences: [ownerOf(model)],
    },
    spec: {
      selector: { [labels.model]: model.metadata.name },
      ports: [{ name: 'http', port: 80, targetPort: ports.frontDoor, protocol: 'TCP', appProtocol: 'http' }],
    },
  }),
);

export const modelService = (model: Model) => build(model, '');
