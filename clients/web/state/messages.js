// @ts-check
// Types of the gateway's JSON, as far as the page reads or writes it. The contract is editing.proto. No code.

/**
 * @typedef {{data: string, shape: number[]}} Code  float32 [layers, size], little-endian, in base64
 * @typedef {{data: string, format: string, width: number, height: number}} EncodedPicture
 * @typedef {{direction: string, strength: number, keep?: string[]}} EditStep
 * @typedef {{name: string, label: string, range_min: number, range_max: number}} Direction
 * @typedef {{name: string, label: string, edits: EditStep[]}} Preset
 * @typedef {{name: string, resolution: number, layers: number, directions: Direction[], presets?: Preset[],
 *   alignment: string, licence: string, summary: string, identity_score?: boolean}} Bundle
 * @typedef {{max_picture_bytes: number, max_picture_pixels: number}} Limits
 * @typedef {{bundles: Bundle[], limits: Limits, server_version: string}} Bundles
 * @typedef {{code: Code & {handle?: string}, domain_score: number, identity_score?: number, bundle: string, image?: EncodedPicture,
 *   aligned?: EncodedPicture, placement?: Placement}} Result
 * @typedef {{width: number, height: number, faces: number, corners: {x: number, y: number}[]}} Placement  where the
 *   code's square lies, in pixels of the upright photograph, and how many faces are on it
 * @typedef {{alignment?: string, face?: number, all_faces?: boolean}} Align
 * @typedef {{step: number, steps: number, preview?: EncodedPicture, domain_score?: number}} Progress
 * @typedef {{left: number, top: number, right: number, bottom: number}} Box  in pixels of the upright photograph
 * @typedef {{box: Box, unusable: string}} Face  `unusable`: why the face cannot be edited; empty: it can be
 */

export {};
