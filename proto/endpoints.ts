/** Which endpoints a Model opens; the routes behind each are in routes.ts. */
import { defaultEndpoints, type EndpointName, type ModelType } from '#api/model.ts';

/** The endpoints a Model opens: those it names, else its type's. */
export const openEndpoints = (spec: {
  endpoints?: EndpointName[] | undefined;
  modelType: ModelType;
}): EndpointName[] => [...(spec.endpoints ?? defaultEndpoints[spec.modelType])];
